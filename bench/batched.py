"""Do many prompts together give the rewrites that each gives alone? Print every one that differs, and the share that does not.

python bench/batched.py [most]
"""

import json
import sys
from pathlib import Path

from machine import machine

from promptimal import models

DATA = Path(__file__).parents[1] / "trainer/promptimal_trainer/data"


def main(most: int) -> None:
    """Print the differences and the count."""
    names = ("evaluation.jsonl", "development.jsonl")
    prompts = [json.loads(line)["prompt"] for name in names for line in (DATA / name).read_text(encoding="utf-8").splitlines()][:most]
    alone, together = (models.load(models.Choice(), print, many) for many in (False, True))
    same = 0
    batched = list(together.rewrite_all(prompts))  # first all of these: else the two would share the processors
    for prompt, (rewrite,) in zip(prompts, batched, strict=True):
        (by_itself,) = alone.rewrite(prompt)
        same += rewrite.text == by_itself.text
        if rewrite.text != by_itself.text:
            print(f"{prompt[:80]!r}: {by_itself.asks} {by_itself.score:.4f} alone, {rewrite.asks} {rewrite.score:.4f} together")
    print(f"{machine()}: {same} of {len(prompts)} rewrites are the same ({same / len(prompts):.1%})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
