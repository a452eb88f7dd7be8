"""Held-out scores of a model file: what llama.cpp, in the engine that rewrites, makes of the pairs that training never saw.

python bench/held_out.py model.gguf [most]
"""

import json
import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from promptimal import chat, passage
from promptimal.asks import Bank, read_bank
from promptimal.engine import Engine, Feed, Sequences, log_probability
from promptimal_convert.gguf_file import read_header
from promptimal_trainer import pairs


class Score(NamedTuple):
    """Of one pair: the loss of its answer's tokens, their count, and whether the surest ask is one that a reader named (None: the pair lists none)."""

    loss: float
    tokens: int
    first_helps: bool | None


def scores(engine: Engine, template: chat.Template, bank: Bank, held: list[pairs.Pair]) -> list[Score]:
    """A score for each pair, in no order."""
    return [score for _, score in engine.run(partial(_score, engine=engine, template=template, bank=bank, pair=p) for p in held)]


def summary(found: list[Score]) -> dict[str, float]:
    """Nats a written token, and the share of rated prompts whose surest ask helps: `words` and `first_helps` of a card."""
    rated = [s.first_helps for s in found if s.first_helps is not None]
    return {
        "words": round(sum(s.loss for s in found) / sum(s.tokens for s in found), 4),
        "first_helps": round(sum(rated) / max(1, len(rated)), 4),
    }


def _score(
    sequences: Sequences, engine: Engine, template: chat.Template, bank: Bank, pair: pairs.Pair
) -> Generator[list[Feed], Any, Score]:
    read = [
        *engine.tokenize(template.before, special=True),
        *engine.tokenize(passage.view(passage.split(pair.prompt))),
        *engine.tokenize(template.after, special=True),
    ]
    answer = engine.tokenize(pair.target) + engine.tokenize(template.end, special=True)
    sequence = sequences.open()
    first = yield [Feed(sequence, read, state=True)]
    helps = None
    if pair.asks is not None:
        helps = bank.sentences[int(bank.rate(first[0][1]).argmax())] in pair.asks
    rest = yield [Feed(sequence, answer[:-1], every=True)]
    rows = [first[0][0], *rest[0]]
    return Score(-sum(log_probability(row, token) for row, token in zip(rows, answer, strict=True)), len(answer), helps)


def main(path: Path, most: int | None) -> None:
    """Print the summary as JSON."""
    held = [p for p in pairs.read(pairs.DEFAULT) if pairs.is_held_out(p.prompt, 0.05)][:most]
    print(json.dumps(summary(scores(Engine(path, width=1, slots=8), chat.CHATML, read_bank(read_header(path)), held))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
