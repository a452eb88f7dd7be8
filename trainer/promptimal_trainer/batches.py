"""Pairs as token numbers, and in which order and company they are trained on: batches of like lengths, shared out among the ranks of a run."""

import math
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch

from promptimal import chat, passage
from promptimal_trainer import head
from promptimal_trainer.head import Ratings
from promptimal_trainer.pairs import Pair
from promptimal_trainer.recipe import TOKENS_A_PASS, Recipe

T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """Token numbers of one pair: what the model reads, and what it should write; and what the asks' layer should say, if the pair tells."""

    prompt: list[int]
    answer: list[int]
    asks: Ratings | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


class Tensors(NamedTuple):
    """A batch for the model: token numbers, shape (examples, tokens), padded with 0; then, for each token of an answer, the row and
    column that predict it, and the token; and the column in which each prompt ends."""

    ids: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    labels: torch.Tensor
    ends: torch.Tensor


def encode(pair: Pair, tokenizer: Any, template: chat.Template, asks: head.Head | None = None) -> Example:
    """The token numbers of one pair. Control tokens come from the template alone, never from the person's text."""
    seen = passage.view(passage.split(pair.prompt))
    return Example(
        prompt=[*_control(tokenizer, template.before), *_text(tokenizer, seen), *_control(tokenizer, template.after)],
        answer=[*_text(tokenizer, pair.target), *_control(tokenizer, template.end)],
        asks=head.ratings(pair, asks),
    )


def encode_all(pairs: list[Pair], tokenizer: Any, recipe: Recipe, asks: head.Head | None) -> list[Example]:
    """The pairs that are no longer than the recipe allows."""
    examples = (encode(pair, tokenizer, chat.TEMPLATES[recipe.template], asks) for pair in pairs)
    return [example for example in examples if len(example) <= recipe.max_tokens]


def updates(examples: list[Example], recipe: Recipe, epoch: int) -> Iterator[list[Example]]:
    """The examples of each weight update of an epoch: batches of like lengths (padding costs as much as text), in an order that seed
    and epoch decide."""
    order = random.Random(f"{recipe.seed}/{epoch}")
    batches = []
    for chunk in cut(order.sample(examples, len(examples)), recipe.batch * 32):
        batches += cut(sorted(chunk, key=len), recipe.batch)
    order.shuffle(batches)
    for group in cut(batches, recipe.accumulate):
        yield [example for batch in group for example in batch]


def share(examples: list[Example], batch: int, rank: int, ranks: int) -> list[list[Example]]:
    """A rank's part of some examples, dealt out one by one, in passes; all ranks get equally many passes, some of them perhaps empty."""
    parts = [list(passes(examples[number::ranks], len, TOKENS_A_PASS, batch)) for number in range(ranks)]
    return parts[rank] + [[] for _ in range(max(map(len, parts)) - len(parts[rank]))]


def passes(items: Iterable[T], length: Callable[[T], int], tokens: int, most: float = math.inf) -> Iterator[list[T]]:
    """Items in their order, in parts of at most `most`, whose longest times their count stays within `tokens`; a longer one goes alone."""
    part: list[T] = []
    for item in items:
        if part and (len(part) == most or (len(part) + 1) * max(map(length, [*part, item])) > tokens):
            yield part
            part = []
        part.append(item)
    if part:
        yield part


def cut(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def tensors(batch: list[Example], device: torch.device) -> Tensors:
    """A batch as tensors. No mask: padding stands after the text, where a causal model's earlier positions never look."""
    ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
    places = []
    for row, example in enumerate(batch):
        ids[row, : len(example)] = torch.tensor(example.prompt + example.answer)
        places += [(row, len(example.prompt) - 1 + offset, label) for offset, label in enumerate(example.answer)]
    rows, columns, labels = torch.tensor(places).T
    ends = torch.tensor([len(example.prompt) - 1 for example in batch])
    return Tensors(*(t.to(device) for t in (ids, rows, columns, labels, ends)))


def _control(tokenizer: Any, text: str) -> list[int]:
    """Text of the template: its control tokens, and what stands between them as llama.cpp cuts it, each piece a text of its own."""
    marks = re.compile("(" + "|".join(map(re.escape, _marks(tokenizer))) + ")")
    ids: list[int] = []
    for piece in filter(None, marks.split(text)):
        ids += [tokenizer.convert_tokens_to_ids(piece)] if marks.fullmatch(piece) else _text(tokenizer, piece)
    return ids


def _marks(tokenizer: Any) -> list[str]:
    return sorted(tokenizer.get_added_vocab() or tokenizer.all_special_tokens, key=len, reverse=True)


def _text(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
