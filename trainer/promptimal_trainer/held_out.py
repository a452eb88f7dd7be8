"""Held-out scores of a model file: what llama.cpp, in the engine that rewrites, makes of pairs that training never saw.

The numbers are those of `network.held_out` (a test compares them), but of the very file that people run, quantized as it is.
"""

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, NamedTuple

from promptimal import chat, passage
from promptimal.asks import Bank
from promptimal.engine import Engine, Feed, Sequences, log_probability
from promptimal_trainer.pairs import Pair


class Score(NamedTuple):
    """Of one pair: the loss of its answer's tokens in nats, their count, and whether the surest ask is one that a reader named (None: the pair lists none)."""

    loss: float
    tokens: int
    first_helps: bool | None


def scores(engine: Engine, template: chat.Template, bank: Bank | None, held: Sequence[Pair]) -> list[Score]:
    """A score for each pair, in no order. Without a bank, the asks are not rated."""
    return [score for _, score in engine.run(partial(_score, engine=engine, template=template, bank=bank, pair=p) for p in held)]


def summary(found: list[Score]) -> dict[str, float]:
    """Nats a written token, and the share of rated prompts whose surest ask helps: `words` and `first_helps` of a card."""
    rated = [s.first_helps for s in found if s.first_helps is not None]
    return {
        "words": round(sum(s.loss for s in found) / sum(s.tokens for s in found), 4),
        **({"first_helps": round(sum(rated) / len(rated), 4)} if rated else {}),
    }


def _score(
    sequences: Sequences, engine: Engine, template: chat.Template, bank: Bank | None, pair: Pair
) -> Generator[list[Feed], Any, Score]:
    read = [
        *engine.tokenize(template.before, special=True),
        *engine.tokenize(passage.view(passage.split(pair.prompt))),
        *engine.tokenize(template.after, special=True),
    ]
    answer = engine.tokenize(pair.target) + engine.tokenize(template.end, special=True)
    sequence = sequences.open()
    first = yield [Feed(sequence, read, state=bank is not None)]
    helps = None
    if bank is not None and pair.asks is not None:
        helps = bank.sentences[int(bank.rate(first[0][1]).argmax())] in pair.asks
    rest = yield [Feed(sequence, answer[:-1], every=True)]
    rows = [first[0][0], *rest[0]]
    return Score(-sum(log_probability(row, token) for row, token in zip(rows, answer, strict=True)), len(answer), helps)
