"""Make fine-tuned adapters the default model's: set their asks by readers' verdicts, take their mean and put it, with its card, into the package.

python bench/install_adapter.py runs/default runs/second trainer/sheets/second …
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from held_out import held_out

from promptimal import models
from promptimal_convert.adapter import convert
from promptimal_convert.average import average
from promptimal_convert.merge import merge
from promptimal_trainer import verdicts
from promptimal_trainer.base import find_gguf
from promptimal_trainer.pairs import sha256


def main(runs: list[Path], sheets: list[Path]) -> None:
    """Write `adapter.gguf` and `card.json` into cli/promptimal/model. The runs themselves stay as they are."""
    cards = [json.loads((run / "card.json").read_text(encoding="utf-8")) for run in runs]
    base = find_gguf(cards[0]["recipe"]["base"])
    if base is None:
        sys.exit(f"{cards[0]['recipe']['base']} is not installed")
    models.ADAPTER.parent.mkdir(exist_ok=True)
    moved = verdicts.shifts(sheets, (runs[0] / "asks.txt").read_text(encoding="utf-8").splitlines())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, run in enumerate(runs):
            shutil.copytree(run, folder / f"run{number}")
            verdicts.apply(moved, folder / f"run{number}")
            convert(folder / f"run{number}", base, folder / f"{number}.gguf")
        average([folder / f"{number}.gguf" for number in range(len(runs))], models.ADAPTER)
        merge(base, models.ADAPTER, folder / "merged.gguf", models.QUANTIZATION)
        found = held_out(folder / "merged.gguf")
    card = _card(cards, found) | {
        "verdicts": {sheet.name: sha256(sheet / "verdicts.jsonl") for sheet in sheets},
        "adapter_sha256": sha256(models.ADAPTER),
    }
    models.CARD.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(f"held out: {found}; {models.ADAPTER.stat().st_size:,} bytes")


def _card(cards: list[dict[str, Any]], found: dict[str, float]) -> dict[str, Any]:
    """What all runs were made of, as the first one's card has it, how the mean does, and what each run was and scored."""
    own = ("recipe", "held_out", "tokens_per_second")
    return {**cards[0], "held_out": [found], "runs": [{key: card[key] for key in own} for card in cards]}


if __name__ == "__main__":
    places = list(map(Path, sys.argv[1:]))
    main([p for p in places if (p / "card.json").exists()], [p for p in places if not (p / "card.json").exists()])
