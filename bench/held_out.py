"""Held-out loss of a model file: what llama.cpp, in the engine that rewrites, makes of the pairs that training never saw.

python bench/held_out.py model.gguf [most]
"""

import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

from promptimal import chat, passage
from promptimal.engine import Engine, Feed, Sequences
from promptimal_trainer import pairs


def held_out_loss(engine: Engine, template: chat.Template, most: int | None = None) -> float:
    """Mean loss of the answers' tokens over (at most `most` of) the held-out pairs, in nats."""
    held = [p for p in pairs.read(pairs.DEFAULT) if pairs.is_held_out(p.prompt, 0.05)][:most]
    results = [result for _, result in engine.run(partial(_score, engine=engine, template=template, pair=p) for p in held)]
    return sum(loss for loss, _ in results) / sum(count for _, count in results)


def _score(
    sequences: Sequences, engine: Engine, template: chat.Template, pair: pairs.Pair
) -> Generator[list[Feed], Any, tuple[float, int]]:
    read = [
        *engine.tokenize(template.before, special=True),
        *engine.tokenize(passage.view(passage.split(pair.prompt))),
        *engine.tokenize(template.after, special=True),
    ]
    answer = engine.tokenize(pair.target) + engine.tokenize(template.end, special=True)
    sequence = sequences.open()
    first = yield [Feed(sequence, read)]
    rest = yield [Feed(sequence, answer[:-1], every=True)]
    rows = [first[0][-1], *rest[0]]
    return -sum(float(row[token]) for row, token in zip(rows, answer, strict=True)), len(answer)


if __name__ == "__main__":
    model = Engine(Path(sys.argv[1]), width=1, slots=8)
    print(f"{held_out_loss(model, chat.CHATML, int(sys.argv[2]) if len(sys.argv) > 2 else None):.4f}")
