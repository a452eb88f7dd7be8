"""Nothing lost, nothing invented: the default model over thousands of prompts, each rewrite compared with what the person gave.

python bench/faithful.py [most]

The prompts are the project's own (training and evaluation), and each tenth of them again with a real block of code, a log or a table
pasted below. Exits with 1 if any rewrite is unfaithful.
"""

import re
import sys
import time
from collections import Counter
from pathlib import Path

from machine import machine

from promptimal import fidelity, models, passage
from promptimal.rewrite import Chooser, Rewrite
from promptimal_trainer import pairs

ROOT = Path(__file__).parents[1]
BLOCKS = [
    "```python\n" + (ROOT / "cli/promptimal/terminal.py").read_text(encoding="utf-8") + "```",
    'Traceback (most recent call last):\n  File "/srv/a.py", line 41, in <module>\n    total = prices[7]\nIndexError: list index out of range',
    "| city | 2019 | 2023 |\r\n| --- | --- | --- |\r\n| Turin | 12,004 | 9,871 |\r\n| Lyon | 7,350 | 8,002 |",
    "SELECT id, SUM(total_cents) / 100.0\nFROM orders\nWHERE created_at >= '2024-01-01'\nGROUP BY id;",
]


def prompts() -> list[str]:
    """Every prompt of the project's data, some with something pasted below."""
    data = pairs.DEFAULT.parent
    own = [str(r["prompt"]) for name in ("evaluation.jsonl", "development.jsonl", "pairs.jsonl") for _, r in pairs.read_lines(data / name)]
    pasted = (f"{prompt}\n\n{BLOCKS[i % len(BLOCKS)]}" for i, prompt in enumerate(own[::10]))
    return [text for i, prompt in enumerate(own) for text in ((next(pasted), prompt) if i % 10 == 0 else (prompt,))]


def problems(rewrite: Rewrite, bank: frozenset[str]) -> list[str]:
    """What is wrong with a rewrite, in words."""
    found = []
    position = 0
    for segment in passage.split(rewrite.prompt):
        if passage.is_material(segment):
            position = rewrite.text.find(segment.text.strip("\r\n").rstrip(), position)
            if position < 0:
                found.append(f"{segment.kind} is not kept")
                break
    given, made = (Counter(i.form for i in fidelity.items(t) if i.kind == "number") for t in (rewrite.prompt, rewrite.request))
    if given != made:
        found.append(f"numbers {given - made} lost, {made - given} new")
    if not set(rewrite.asks) <= bank:
        found.append("an ask that is not in the bank")
    if len(set(rewrite.asks)) < len(rewrite.asks):
        found.append("an ask twice")
    if not rewrite.text.startswith(rewrite.request.rstrip()) or not rewrite.text.endswith(" ".join(rewrite.asks)):
        found.append("more or less than request and asks")
    if rewrite.request not in (rewrite.prompt.strip(),) and len(rewrite.request) > 2 * len(rewrite.prompt) + 60:
        found.append("a request much longer than the prompt")
    if set(re.findall(r"<\|[^|]*\|>", rewrite.text)) - set(re.findall(r"<\|[^|]*\|>", rewrite.prompt)):
        found.append("a control token")
    return found


def main(most: int | None) -> int:
    """Rewrite all prompts, print the unfaithful ones and the counts; 1 if there is any."""
    rewriter = models.load(models.Choice(), lambda text: print(text, file=sys.stderr), True)
    assert isinstance(rewriter, Chooser)
    bank = frozenset(rewriter.bank.sentences)
    started = time.monotonic()
    texts = prompts()[:most]
    bad = reworded = quiet = 0
    for (rewrite,) in rewriter.rewrite_all(texts):
        faults = problems(rewrite, bank)
        bad += bool(faults)
        reworded += not rewrite.kept
        quiet += not rewrite.asks
        if faults:
            print(f"{rewrite.prompt[:200]!r}\n  → {rewrite.text[:300]!r}\n  {faults}")
    seconds = time.monotonic() - started
    print(
        f"{machine()}: {len(texts)} prompts in {seconds:.0f} s, {bad} unfaithful, {reworded / len(texts):.0%} in other words, "
        f"{quiet / len(texts):.0%} with no ask"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else None))
