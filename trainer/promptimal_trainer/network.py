"""What is trained: a frozen base with a LoRA adapter (Hu et al., 2021, https://arxiv.org/abs/2106.09685), and the asks' layer."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from promptimal_trainer.batches import Example, Tensors, share, tensors
from promptimal_trainer.distributed import World, total
from promptimal_trainer.head import Head
from promptimal_trainer.recipe import BadRecipe, Recipe

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

ASKS_IN_LOSS = 0.1
"""Weight of a prompt's ratings (some ten nats) against an answer's mean token (some tenths)."""


class Scores(NamedTuple):
    """How a model does on pairs that it was not trained on.

    `loss` is the sum that training makes smaller: `words`, nats a written token, and a share of `asks`, nats a prompt. `first_helps`
    and `first_harms` are the shares of prompts whose surest ask a reader named as helping, or as harmful.
    """

    loss: float
    words: float
    asks: float | None = None
    first_helps: float | None = None
    first_harms: float | None = None


class Network(torch.nn.Module):
    """A model with its adapter, and the asks' layer where the pairs list any: one pass for both."""

    def __init__(self, base: Any, asks: Head | None, recipe: Recipe, precision: torch.dtype) -> None:
        super().__init__()
        layers = base.config.num_hidden_layers
        if recipe.skip_layers >= layers:
            raise BadRecipe(f"key skip_layers: {recipe.skip_layers} leaves nothing to train, the base has {layers} layers")
        if recipe.gradient_checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        lora = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=list(LINEAR),
            layers_to_transform=list(range(recipe.skip_layers, layers)),
            task_type="CAUSAL_LM",
        )
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        self.model = get_peft_model(base, lora, autocast_adapter_dtype=True)
        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.cast_input_dtype_enabled = False  # autocast does it; PEFT's cast to float32 and back takes time and memory
        self.asks = asks
        self.precision = precision
        self.train()

    @property
    def layers(self) -> Any:
        return self.model.get_base_model().model.layers

    def forward(self, batch: Tensors) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The summed loss of all answers' tokens, in nats, and the asks' log-odds, shape (examples, asks).

        Only the answers' positions go through the output layer: with 49,152 words it is a fifth of the work.
        """
        inner = self.model.get_base_model()
        with torch.autocast(batch.ids.device.type, self.precision, enabled=self.precision != torch.float32):
            hidden = inner.model(input_ids=batch.ids, use_cache=False).last_hidden_state
            logits = inner.lm_head(hidden[batch.rows, batch.columns])
        loss = torch.nn.functional.cross_entropy(logits.float(), batch.labels, reduction="sum")
        return loss, self.asks(hidden[range(len(batch.ends)), batch.ends]) if self.asks else None


def backward(network: Network, examples: list[Example], recipe: Recipe, world: World, scaler: Any) -> float:
    """The gradients of one weight update, over all ranks; this rank's part of the loss: nats an answer's token, and the asks' share."""
    written = sum(len(e.answer) for e in examples)
    rated = sum(e.asks is not None for e in examples)
    sum_of_losses = 0.0
    for batch in share(examples, recipe.batch, world.rank, world.size):
        loss, odds = network(tensors(batch or examples[:1], world.device))
        loss = loss / written
        rows = [row for row, e in enumerate(batch) if e.asks]
        if odds is not None:
            loss = loss + ASKS_IN_LOSS * _rating(network, odds, rows, batch) / max(1, rated)
        if not batch:
            loss = loss * 0  # a rank without an example goes along for the others, who wait for its part of the weights
        scaler.scale(loss * world.size).backward()  # FSDP takes the mean over the ranks, where the sum is meant
        sum_of_losses += loss.item()
    return sum_of_losses


@torch.no_grad()
def held_out(network: Network, examples: list[Example], recipe: Recipe, world: World) -> Scores:
    """Scores on pairs that are not trained on, over all ranks."""
    words = rating = 0.0
    rated = helps = harms = 0
    with _evaluating(network):
        for batch in share(sorted(examples, key=len), recipe.batch, world.rank, world.size):
            loss, odds = network(tensors(batch or examples[:1], world.device))
            if not batch:
                continue
            words += loss.item()
            rows = [row for row, e in enumerate(batch) if e.asks]
            if odds is not None and rows:
                rating += _rating(network, odds, rows, batch).item()
                best = odds[rows].argmax(dim=1).tolist()
                listed = [e.asks for e in batch if e.asks]
                rated += len(rows)
                helps += sum(number in asks.good for number, asks in zip(best, listed, strict=True))
                harms += sum(number in asks.bad for number, asks in zip(best, listed, strict=True))
    words, rating, *counts = total([words, rating, rated, helps, harms], world)
    words /= sum(len(e.answer) for e in examples)
    if not counts[0]:
        return Scores(round(words, 4), round(words, 4))
    rating, helps_share, harms_share = (n / counts[0] for n in (rating, *counts[1:]))
    return Scores(*(round(n, 4) for n in (words + rating * ASKS_IN_LOSS, words, rating, helps_share, harms_share)))


def rate(step: int, steps: int, recipe: Recipe) -> float:
    """Share of the full learning rate: linear warm-up, then a cosine to `lr_end`."""
    rising = max(1, round(steps * recipe.warmup))
    if step < rising:
        return (step + 1) / rising
    return recipe.lr_end + (1 - recipe.lr_end) / 2 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def make_optimizer(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; with a base in 4 bits on one GPU bitsandbytes' paged one, whose state may leave the GPU when it is short of memory."""
    groups: list[dict[str, Any]] = [{"params": _trained(network.model.parameters()), "lr": recipe.lr, "initial_lr": recipe.lr}]
    if network.asks:
        groups.append({"params": _trained(network.asks.parameters()), "lr": recipe.asks_lr, "initial_lr": recipe.asks_lr})
    first = groups[0]["params"][0]
    if recipe.quantize == "nf4" and first.is_cuda and type(first.data) is torch.Tensor:  # not shared out by FSDP
        from bitsandbytes.optim import PagedAdamW32bit

        return PagedAdamW32bit(groups, weight_decay=recipe.weight_decay)  # type: ignore[no-any-return]
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)


def _trained(parameters: Iterable[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    return [p for p in parameters if p.requires_grad]


def _rating(network: Network, odds: torch.Tensor, rows: list[int], batch: list[Example]) -> torch.Tensor:
    """The summed loss of the examples that rate asks; 0, but with gradients, where none does."""
    assert network.asks
    return network.asks.loss(odds[rows], [e.asks for e in batch if e.asks]) if rows else odds.sum() * 0


@contextmanager
def _evaluating(network: Network) -> Iterator[None]:
    network.eval()
    try:
        yield
    finally:
        network.train()
