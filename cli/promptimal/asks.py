"""Choose the asks: the model writes no sentence of its own, it chooses among sentences that people wrote.

The bank's sentences form a trie of tokens. `choose` walks it best first: a branch is evaluated only while its likelihood can still be
among the best, so that the few best sentences are found exactly, with some hundred tokens evaluated and no
length penalty to tune. Every token's likelihood counts, forced ones too: without that, a sentence could win by its first word alone.
"""

import heapq
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from promptimal.engine import Engine, Feed, Sequences

BANK = Path(__file__).parent / "asks.txt"

_WIDTH = 8  # branches evaluated in one batch
_MARGIN = 7.0  # nats below the best at which a branch is not worth a look
EXPANSIONS = 20
"""Branching points of the trie that one search may hold open."""


class Choice(NamedTuple):
    """A sentence chosen: its text, its log-likelihood, and what may follow it."""

    ask: str
    likelihood: float
    row: Any


@dataclass
class _Node:
    """A point in the trie: the tokens that may follow, and the sentence that ends here, if one does."""

    children: "dict[int, _Node]" = field(default_factory=dict)
    ask: str = ""


class _Branch(NamedTuple):
    """Tokens from a branching point to the next one or to a sentence's end, not yet evaluated."""

    bound: float  # negated, for the heap: no sentence beyond can be likelier
    order: int
    parent: int
    tokens: list[int]
    end: _Node


class Bank:
    """The sentences that may be asked, in the tokens of one model."""

    def __init__(self, engine: Engine, sentences: list[str]) -> None:
        self._engine, self.sentences = engine, sentences

    @cached_property
    def trie(self) -> _Node:
        """The sentences as paths of tokens."""
        root = _Node()
        for sentence in self.sentences:
            node = root
            for token in self._engine.tokenize(sentence):
                node = node.children.setdefault(token, _Node())
            node.ask = sentence
        return root


def read_bank(path: Path = BANK) -> list[str]:
    """The sentences of a bank file: one a line, "#" begins a comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def choose(sequences: Sequences, trie: _Node, sequence: int, row: Any, best: int) -> Generator[list[Feed], Any, list[Choice]]:
    """The `best` likeliest sentences of `trie` after `sequence`, where `row` is what may follow; likeliest first.

    To be used with `yield from` in an engine's task.
    """
    order = count()
    heap: list[_Branch] = []
    found: list[Choice] = []
    held: list[int] = []

    def grow(parent: int, likelihood: float, node: _Node, row: Any) -> None:
        for token, child in node.children.items():
            tokens = [token]
            while len(child.children) == 1 and not child.ask:
                ((following, child),) = child.children.items()
                tokens.append(following)
            bound = likelihood + float(row[token])
            heapq.heappush(heap, _Branch(-bound, next(order), parent, tokens, child))

    def floor() -> float:
        return found[best - 1].likelihood if len(found) >= best else (found[0].likelihood - _MARGIN if found else -inf)

    grow(sequence, 0.0, trie, row)
    while heap and -heap[0].bound > floor() and len(held) < EXPANSIONS:
        batch: list[tuple[_Branch, int]] = []
        top = -heap[0].bound
        while heap and len(batch) < _WIDTH and -heap[0].bound > max(floor(), top - _MARGIN):
            branch = heapq.heappop(heap)
            batch.append((branch, sequences.fork(branch.parent)))
        rows = yield [Feed(fork, branch.tokens, every=True) for branch, fork in batch]
        for (branch, fork), after in zip(batch, rows, strict=True):
            likelihood = -branch.bound + sum(float(after[i][t]) for i, t in enumerate(branch.tokens[1:]))
            if branch.end.children:
                held.append(fork)
                grow(fork, likelihood, branch.end, after[-1])
            else:
                found.append(Choice(branch.end.ask, likelihood, after[-1]))
                sequences.close(fork)
        found.sort(key=lambda c: -c.likelihood)
        del found[best:]
    for fork in held:
        sequences.close(fork)
    return found
