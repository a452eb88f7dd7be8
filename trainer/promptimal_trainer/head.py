"""The asks' layer: for each sentence of a bank, how sure the model is that it helps, from the last hidden state of a prompt.

The bank is every sentence that enough pairs list. For each prompt a reader has named the few that help, best first, and the few that would do harm;
what is named by neither is counted as not helping, with less weight than what a reader refused.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from promptimal_trainer.pairs import Pair

LEAST = 8
"""Pairs that must list a sentence for it to be learnt; of a set of less than 800 pairs one in a hundred."""

_WEIGHT_OF_BEST = 1.5
_WEIGHT_OF_MISFIT = 3.0


class Ratings(NamedTuple):
    """Numbers of the sentences that help a prompt, best first, and of those that would do harm."""

    good: tuple[int, ...]
    bad: tuple[int, ...]


class Head(torch.nn.Module):
    """A linear layer, hidden size → sentences, in float32. It begins at each sentence's share of the pairs."""

    def __init__(self, sentences: Sequence[str], shares: Sequence[float], size: int) -> None:
        super().__init__()
        self.sentences = list(sentences)
        self.weight = torch.nn.Parameter(torch.zeros(len(sentences), size))
        self.bias = torch.nn.Parameter(torch.logit(torch.tensor(list(shares)).clamp(1e-3, 0.5)))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Log-odds, shape (prompts, sentences), of states of shape (prompts, hidden size)."""
        return states.float() @ self.weight.T + self.bias

    def loss(self, odds: torch.Tensor, ratings: Sequence[Ratings]) -> torch.Tensor:
        """Summed, weighted binary cross-entropy of the prompts' ratings, in nats, from their log-odds, shape (prompts, sentences)."""
        wanted = torch.zeros(len(ratings), len(self.sentences))
        weights = torch.ones_like(wanted)
        for row, rating in enumerate(ratings):
            wanted[row, list(rating.good)] = 1.0
            weights[row, list(rating.good[:1])] = _WEIGHT_OF_BEST
            weights[row, list(rating.bad)] = _WEIGHT_OF_MISFIT
        return torch.nn.functional.binary_cross_entropy_with_logits(odds, wanted.to(odds), weights.to(odds), reduction="sum")


def save(sentences: Sequence[str], weights: Mapping[str, torch.Tensor], directory: Path) -> None:
    """Write the sentences, one a line, and the layer's `weight` and `bias`."""
    (directory / "asks.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, directory / "asks.safetensors")


def make(pairs: Iterable[Pair], size: int) -> Head | None:
    """A new head for the asks that these pairs list, or None where they list none often enough."""
    rated = [pair for pair in pairs if pair.asks is not None]
    counts = Counter(ask for pair in rated for ask in pair.asks or ())
    least = min(LEAST, max(1, len(rated) // 100))
    sentences = sorted(ask for ask, count in counts.items() if count >= least)
    return Head(sentences, [counts[s] / len(rated) for s in sentences], size) if sentences else None


def ratings(pair: Pair, head: Head | None) -> Ratings | None:
    """What a pair says of the head's sentences; None where it says nothing of asks."""
    if head is None or pair.asks is None:
        return None
    numbers = {sentence: number for number, sentence in enumerate(head.sentences)}
    good = [numbers[ask] for ask in pair.asks if ask in numbers]
    bad = [numbers[ask] for ask in pair.misfits if ask in numbers and ask not in pair.asks]
    return Ratings(tuple(good), tuple(bad))
