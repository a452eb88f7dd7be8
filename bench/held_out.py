"""Held-out scores of a model file: what llama.cpp, in the engine that rewrites, makes of the pairs that training never saw.

python bench/held_out.py model.gguf [most]
"""

import json
import sys
from pathlib import Path

from promptimal import chat
from promptimal.asks import read_bank
from promptimal.engine import Engine
from promptimal_convert.gguf_file import read_header
from promptimal_trainer import pairs
from promptimal_trainer.held_out import scores, summary


def main(path: Path, most: int | None) -> None:
    """Print the summary as JSON."""
    held = [p for p in pairs.read(pairs.DEFAULT) if pairs.is_held_out(p.prompt, 0.05)][:most]
    print(json.dumps(summary(scores(Engine(path, width=1, states=True), chat.CHATML, read_bank(read_header(path)), held))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
