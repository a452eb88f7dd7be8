"""Make a fine-tuned adapter the default model's: set its asks by readers' verdicts, convert it and put it, with its card, into the package.

python bench/install_adapter.py runs/default trainer/sheets/second …
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from promptimal import models
from promptimal_convert.adapter import convert
from promptimal_trainer import verdicts
from promptimal_trainer.base import find_gguf
from promptimal_trainer.pairs import sha256


def main(run: Path, sheets: list[Path]) -> None:
    """Write `adapter.gguf` and `card.json` into cli/promptimal/model. The run itself stays as it is."""
    card = json.loads((run / "card.json").read_text(encoding="utf-8"))
    base = find_gguf(card["recipe"]["base"])
    if base is None:
        sys.exit(f"{card['recipe']['base']} is not installed")
    models.ADAPTER.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        moved = Path(folder) / "run"
        shutil.copytree(run, moved)
        verdicts.apply(verdicts.shifts(sheets, (run / "asks.txt").read_text(encoding="utf-8").splitlines()), moved)
        convert(moved, base, models.ADAPTER)
    card["verdicts"] = {sheet.name: sha256(sheet / "verdicts.jsonl") for sheet in sheets}
    card["adapter_sha256"] = sha256(models.ADAPTER)
    models.CARD.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(f"held out: {card['held_out'][-1]}; {models.ADAPTER.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), list(map(Path, sys.argv[2:])))
