"""Make a fine-tuned adapter the default model's: convert it and put it, with its card, into the package.

python bench/install_adapter.py runs/default
"""

import json
import sys
from pathlib import Path

from promptimal import models
from promptimal_convert.adapter import convert
from promptimal_trainer.base import find_gguf
from promptimal_trainer.pairs import sha256


def main(run: Path) -> None:
    """Write `adapter.gguf` and `card.json` into cli/promptimal/model."""
    card = json.loads((run / "card.json").read_text(encoding="utf-8"))
    base = find_gguf(card["recipe"]["base"])
    if base is None:
        sys.exit(f"{card['recipe']['base']} is not installed")
    models.ADAPTER.parent.mkdir(exist_ok=True)
    convert(run, base, models.ADAPTER)
    card["adapter_sha256"] = sha256(models.ADAPTER)
    models.CARD.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(f"held out: {card['held_out'][-1]}; {models.ADAPTER.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
