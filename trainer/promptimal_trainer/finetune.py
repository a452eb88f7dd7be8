"""Fine-tune a LoRA adapter on pairs, by a recipe; the loss counts the model's answer alone.

    promptimal-train finetune --recipe smollm2-135m --out runs/mine

Where the pairs have lists of asks, a linear layer on the last hidden state of the prompt is trained along with the adapter: it rates each of
the asks (see `head`). Writes into the output directory: `adapter_model.safetensors` and `adapter_config.json` (PEFT's format), `asks.txt` and
`asks.safetensors` (the sentences and the layer), `card.json` (what it was made from and how it scored), `log.jsonl` (a line an update) and, while running,
`checkpoint.pt`; the same command goes on from there.
"""

import contextlib
import ctypes
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from tqdm import tqdm

from promptimal import chat, passage
from promptimal_trainer import base as base_model
from promptimal_trainer import head
from promptimal_trainer import pairs as pairs_file
from promptimal_trainer.head import Ratings
from promptimal_trainer.pairs import Pair

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

RECIPES = Path(__file__).parent / "recipes"


class BadRecipe(Exception):
    """A recipe that cannot be run; the message names the key."""


@dataclass(frozen=True)
class Recipe:
    """A run's settings; `recipes/smollm2-135m.toml` says what each one means."""

    base: str
    template: str
    epochs: int
    batch: int
    accumulate: int
    max_tokens: int
    lr: float
    warmup: float
    weight_decay: float
    clip: float
    asks_lr: float
    rank: int
    alpha: int
    dropout: float
    skip_layers: int
    precision: str
    held_out: float
    seed: int


@dataclass(frozen=True)
class Example:
    """Token numbers of one pair: what the model reads, and what it should write; and what the asks' layer should say, if the pair tells."""

    prompt: list[int]
    answer: list[int]
    asks: Ratings | None = None


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


_ASKS_IN_LOSS = 0.1
"""Weight of a prompt's ratings (some ten nats) against an answer's mean token (some tenths)."""


@dataclass(frozen=True)
class Run:
    """The outcome of a run: held-out scores before and after each epoch, and the adapter's directory."""

    scores: list[Scores]
    directory: Path


def read_recipe(name: str) -> Recipe:
    """A recipe by the name of a built-in one or the path of a TOML file.

    Raises BadRecipe where it is missing, is no TOML, or has unknown, missing or ill-typed keys.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise BadRecipe(f"no recipe {name!r}: give the path of a .toml file or one of: {known}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadRecipe(f"{path}: {error}") from error
    wanted = {f.name: f.type for f in fields(Recipe)}
    if unknown := sorted(set(values) - set(wanted)):
        raise BadRecipe(f"{path}: unknown key {unknown[0]!r}")
    if missing := sorted(set(wanted) - set(values)):
        raise BadRecipe(f"{path}: missing key {missing[0]!r}")
    for key, kind in wanted.items():
        if kind is float and isinstance(values[key], int) and not isinstance(values[key], bool):
            values[key] = float(values[key])
        if type(values[key]) is not kind:
            raise BadRecipe(f"{path}: {key} must be of type {getattr(kind, '__name__', kind)}")
    if values["template"] not in chat.TEMPLATES:
        raise BadRecipe(f"{path}: template must be one of: {', '.join(chat.TEMPLATES)}")
    if values["precision"] not in ("bfloat16", "float32"):
        raise BadRecipe(f"{path}: precision must be bfloat16 or float32")
    for key in ("epochs", "batch", "accumulate", "max_tokens", "rank"):
        if values[key] < 1:
            raise BadRecipe(f"{path}: {key} must be at least 1")
    return Recipe(**values)


def finetune(recipe: Recipe, data: Path, out: Path, *, limit: int | None = None) -> Run:
    """Train an adapter on `data` and write it to `out`; goes on from a checkpoint there that has the same recipe and data.

    `limit` takes only the first so many training pairs. The same recipe, data and machine give the same adapter.
    Raises BadPairs, BadRecipe, base.BadBase.
    """
    _keep_memory()
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True)
    pairs = pairs_file.read(data)
    train_pairs = [p for p in pairs if not pairs_file.is_held_out(p.prompt, recipe.held_out)][:limit]
    held_pairs = [p for p in pairs if pairs_file.is_held_out(p.prompt, recipe.held_out)]
    base = base_model.load(recipe.base, getattr(torch, recipe.precision))
    asks = head.make(train_pairs, base.model.config.hidden_size)
    train = list(_examples(train_pairs, base.tokenizer, recipe, asks))
    held = list(_examples(held_pairs, base.tokenizer, recipe, asks))
    left_out = len(train_pairs) + len(held_pairs) - len(train) - len(held)
    if not train or not held:
        raise pairs_file.BadPairs(f"{data}: too few pairs: {len(train)} to train on, {len(held)} held out")
    if left_out:
        print(f"{left_out} pairs longer than {recipe.max_tokens} tokens are left out", file=sys.stderr)

    lora = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=_LINEAR,
        layers_to_transform=list(range(recipe.skip_layers, base.model.config.num_hidden_layers)),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base.model, lora, autocast_adapter_dtype=True)
    adapted = [p for p in model.parameters() if p.requires_grad]
    layer = list(asks.parameters()) if asks else []
    optimizer = torch.optim.AdamW(
        [{"params": adapted, "lr": recipe.lr}, *([{"params": layer, "lr": recipe.asks_lr}] if layer else [])],
        weight_decay=recipe.weight_decay,
    )
    steps = recipe.epochs * math.ceil(math.ceil(len(train) / recipe.batch) / recipe.accumulate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, recipe.warmup))

    out.mkdir(parents=True, exist_ok=True)
    identity: dict[str, Any] = {"recipe": asdict(recipe), "data": pairs_file.sha256(data), "base": base.sha256, "limit": limit}
    progress = _Progress(step=0, scores=[], log=[])
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        if saved["identity"] == identity:
            set_peft_model_state_dict(model, saved["weights"])
            if asks:
                asks.load_state_dict(saved["asks"])
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict(saved["schedule"])
            torch.set_rng_state(saved["rng"])
            progress = saved["progress"]
            print(f"going on from step {progress.step} of {steps}", file=sys.stderr)
        else:
            print(f"{checkpoint} is of another recipe or other data: starting anew", file=sys.stderr)

    def save_checkpoint() -> None:
        state = {
            "identity": identity,
            "weights": get_peft_model_state_dict(model),
            "asks": asks.state_dict() if asks else None,
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "rng": torch.get_rng_state(),
            "progress": progress,
        }
        temporary = checkpoint.with_suffix(f".{os.getpid()}")
        torch.save(state, temporary)
        temporary.replace(checkpoint)

    if not progress.scores:
        progress.scores.append(held_out(model, asks, held, recipe))
    started, tokens, last_save = time.monotonic(), 0, time.monotonic()
    bar = tqdm(total=steps, initial=progress.step, desc="fine-tuning", unit="step", file=sys.stderr)
    step = 0
    for epoch in range(recipe.epochs):
        batches = _batches(train, recipe, epoch)
        for begin in range(0, len(batches), recipe.accumulate):
            step += 1
            if step <= progress.step:
                continue
            group = batches[begin : begin + recipe.accumulate]
            loss = _update(model, asks, group, optimizer, [*adapted, *layer], recipe)
            schedule.step()
            tokens += sum(len(e.prompt) + len(e.answer) for b in group for e in b)
            progress.step = step
            progress.log.append({"step": step, "loss": round(loss, 4)})
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", held=f"{progress.scores[-1].loss:.3f}")
            if time.monotonic() - last_save > 120:
                save_checkpoint()
                last_save = time.monotonic()
        if len(progress.scores) == epoch + 1:
            progress.scores.append(held_out(model, asks, held, recipe))
            progress.log.append({"epoch": epoch + 1, "held_out": progress.scores[-1]._asdict()})
            save_checkpoint()
    bar.close()
    speed = tokens / max(time.monotonic() - started, 1e-9)

    model.get_base_model().config.__dict__.pop("quantization_config", None)
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's empty card; ours is card.json
    if asks:
        asks.save(out)
    pairs_file.write_lines(out / "log.jsonl", progress.log)
    card = {
        "base": base.name,
        "base_sha256": base.sha256,
        "data": data.name,
        "data_sha256": identity["data"],
        "recipe": asdict(recipe),
        "pairs": {"train": len(train), "held_out": len(held), "left_out": left_out},
        "asks": len(asks.sentences) if asks else 0,
        "held_out": [score._asdict() for score in progress.scores],
        "tokens_per_second": round(speed, 1),
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    checkpoint.unlink(missing_ok=True)
    return Run(progress.scores, out)


def encode(pair: Pair, tokenizer: Any, template: chat.Template, asks: head.Head | None = None) -> Example:
    """The token numbers of one pair. Control tokens come from the template alone, never from the person's text."""
    seen = passage.view(passage.split(pair.prompt))
    return Example(
        prompt=_ids(tokenizer, template.before, special=True) + _ids(tokenizer, seen) + _ids(tokenizer, template.after, special=True),
        answer=_ids(tokenizer, pair.target) + _ids(tokenizer, template.end, special=True),
        asks=head.ratings(pair, asks),
    )


@torch.no_grad()
def held_out(model: Any, asks: head.Head | None, examples: list[Example], recipe: Recipe) -> Scores:
    """Scores on pairs that are not trained on."""
    model.eval()
    total = rating = 0.0
    rated = first_helps = first_harms = 0
    for batch in _cut(sorted(examples, key=_length), recipe.batch):
        states, loss = _forward(model, batch, recipe)
        total += loss.item()
        rows = [(row, example.asks) for row, example in enumerate(batch) if example.asks]
        if asks and rows:
            chosen = states[[row for row, _ in rows]]
            rating += asks.loss(chosen, [ratings for _, ratings in rows]).item()
            best = asks(chosen).argmax(dim=1).tolist()
            rated += len(rows)
            first_helps += sum(number in ratings.good for number, (_, ratings) in zip(best, rows, strict=True))
            first_harms += sum(number in ratings.bad for number, (_, ratings) in zip(best, rows, strict=True))
    model.train()
    words = total / sum(len(e.answer) for e in examples)
    if not rated:
        return Scores(round(words, 4), round(words, 4))
    return Scores(
        round(words + rating / rated * _ASKS_IN_LOSS, 4),
        round(words, 4),
        round(rating / rated, 4),
        round(first_helps / rated, 4),
        round(first_harms / rated, 4),
    )


@dataclass
class _Progress:
    """How far a run has come; saved with every checkpoint."""

    step: int
    scores: list[Scores]
    log: list[dict[str, Any]]


def _keep_memory() -> None:
    """Have glibc keep freed memory for the next step instead of giving it back: a fifth faster on a CPU, where page faults cost most."""
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((-1, 2**31 - 1), (-2, 256 << 20), (-3, 32 << 20)):  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
            libc.mallopt(option, value)


def _examples(pairs: list[Pair], tokenizer: Any, recipe: Recipe, asks: head.Head | None) -> Iterator[Example]:
    template = chat.TEMPLATES[recipe.template]
    for pair in pairs:
        example = encode(pair, tokenizer, template, asks)
        if _length(example) <= recipe.max_tokens:
            yield example


def _ids(tokenizer: Any, text: str, special: bool = False) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"])


def _length(example: Example) -> int:
    return len(example.prompt) + len(example.answer)


def _cut(examples: list[Example], size: int) -> list[list[Example]]:
    return [examples[i : i + size] for i in range(0, len(examples), size)]


def _batches(examples: list[Example], recipe: Recipe, epoch: int) -> list[list[Example]]:
    """Batches of like lengths (padding costs as much as text), in an order that seed and epoch decide."""
    order = random.Random(f"{recipe.seed}/{epoch}")
    shuffled = order.sample(examples, len(examples))
    batches = []
    for chunk in _cut(shuffled, recipe.batch * 32):
        batches += _cut(sorted(chunk, key=_length), recipe.batch)
    order.shuffle(batches)
    return batches


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the full learning rate: linear warm-up, then a cosine to a tenth."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _forward(model: Any, batch: list[Example], recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """The state after each prompt, shape (examples, hidden size), and the summed loss of all answers' tokens, in nats.

    Only the answers' positions go through the output layer: with 49,152 words it is a fifth of the work. No attention mask:
    padding stands after the text, where a causal model's earlier positions never look.
    """
    width = max(map(_length, batch))
    device = next(model.parameters()).device
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    rows, columns, labels = [], [], []
    for row, example in enumerate(batch):
        ids[row, : _length(example)] = torch.tensor(example.prompt + example.answer)
        for offset, label in enumerate(example.answer):
            rows.append(row)
            columns.append(len(example.prompt) - 1 + offset)
            labels.append(label)
    inner = model.get_base_model()
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        hidden = inner.model(input_ids=ids.to(device), use_cache=False).last_hidden_state
        logits = inner.lm_head(hidden[rows, columns])
    loss = torch.nn.functional.cross_entropy(logits.float(), torch.tensor(labels, device=device), reduction="sum")
    return hidden[range(len(batch)), [len(e.prompt) - 1 for e in batch]], loss


def _update(
    model: Any, asks: head.Head | None, group: list[list[Example]], optimizer: torch.optim.Optimizer, weights: list[Any], recipe: Recipe
) -> float:
    """One weight update over a group of batches; the loss: nats an answer's token, and the asks' share."""
    written = sum(len(e.answer) for batch in group for e in batch)
    rated = sum(e.asks is not None for batch in group for e in batch)
    total = 0.0
    for batch in group:
        states, loss = _forward(model, batch, recipe)
        loss = loss / written
        ratings = [(row, e.asks) for row, e in enumerate(batch) if e.asks]
        if asks and ratings:
            rating = asks.loss(states[[row for row, _ in ratings]], [r for _, r in ratings])
            loss = loss + _ASKS_IN_LOSS * rating / rated
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total
