"""Fine-tune a LoRA adapter on pairs, by a recipe; the loss counts the model's answer alone.

    promptimal-train finetune --recipe smollm2-135m --out runs/mine

Writes into the output directory: `adapter_model.safetensors` and `adapter_config.json` (PEFT's format), `card.json` (what it was
made from and how it scored), `log.jsonl` (a line an update) and, while running, `checkpoint.pt`; the same command goes on from there.
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
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from tqdm import tqdm

from promptimal import chat, passage
from promptimal_trainer import base as base_model
from promptimal_trainer import pairs as pairs_file
from promptimal_trainer.pairs import Pair

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent / "recipes"


VERDICT_WEIGHT = 8.0
"""A verdict is one token, a pair some twenty, most of them easy once an ask has begun."""


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
    rank: int
    alpha: int
    dropout: float
    precision: str
    held_out: float
    seed: int


@dataclass(frozen=True)
class Example:
    """Token numbers of one pair: what the model reads, and what it should write. `weight` is each written token's in the loss."""

    prompt: list[int]
    answer: list[int]
    weight: float = 1.0


@dataclass(frozen=True)
class Run:
    """The outcome of a run: held-out loss (nats a token) before and after each epoch, and the adapter's directory."""

    losses: list[float]
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


def finetune(
    recipe: Recipe, data: Path, out: Path, *, limit: int | None = None, verdicts: Path | None = None, start: Path | None = None
) -> Run:
    """Train an adapter on `data` and write it to `out`; goes on from a checkpoint there that has the same recipe and data.

    `limit` takes only the first so many training pairs, `verdicts` adds readers' verdicts on asks, `start` begins with the adapter in that
    directory. The same recipe, data and machine give the same adapter. Raises BadPairs, BadRecipe, base.BadBase.
    """
    _keep_memory()
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True)
    pairs = pairs_file.read(data)
    train_pairs = [p for p in pairs if not pairs_file.is_held_out(p.prompt, recipe.held_out)][:limit]
    held_pairs = [p for p in pairs if pairs_file.is_held_out(p.prompt, recipe.held_out)]
    base = base_model.load(recipe.base, getattr(torch, recipe.precision))
    train = list(_examples(train_pairs, base.tokenizer, recipe))
    held = list(_examples(held_pairs, base.tokenizer, recipe))
    left_out = len(train_pairs) + len(held_pairs) - len(train) - len(held)
    judged = [v for v in pairs_file.read_verdicts(verdicts) if not pairs_file.is_held_out(v.prompt, recipe.held_out)] if verdicts else []
    train += [encode_verdict(v, base.tokenizer, chat.TEMPLATES[recipe.template]) for v in judged]
    if not train or not held:
        raise pairs_file.BadPairs(f"{data}: too few pairs: {len(train)} to train on, {len(held)} held out")
    if left_out:
        print(f"{left_out} pairs longer than {recipe.max_tokens} tokens are left out", file=sys.stderr)

    lora = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base.model, lora, autocast_adapter_dtype=True)
    if start:
        set_peft_model_state_dict(model, load_file(start / "adapter_model.safetensors"))
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * math.ceil(math.ceil(len(train) / recipe.batch) / recipe.accumulate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, recipe.warmup))

    out.mkdir(parents=True, exist_ok=True)
    identity: dict[str, Any] = {"recipe": asdict(recipe), "data": pairs_file.sha256(data), "base": base.sha256, "limit": limit}
    if verdicts:
        identity["verdicts"] = pairs_file.sha256(verdicts)
    if start:
        identity["start"] = pairs_file.sha256(start / "adapter_model.safetensors")
    progress = _Progress(step=0, losses=[], log=[])
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        if saved["identity"] == identity:
            set_peft_model_state_dict(model, saved["weights"])
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
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "rng": torch.get_rng_state(),
            "progress": progress,
        }
        temporary = checkpoint.with_suffix(f".{os.getpid()}")
        torch.save(state, temporary)
        temporary.replace(checkpoint)

    if not progress.losses:
        progress.losses.append(held_out_loss(model, held, recipe))
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
            loss = _update(model, group, optimizer, weights, recipe)
            schedule.step()
            tokens += sum(len(e.prompt) + len(e.answer) for b in group for e in b)
            progress.step = step
            progress.log.append({"step": step, "loss": round(loss, 4)})
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", held=f"{progress.losses[-1]:.3f}")
            if time.monotonic() - last_save > 120:
                save_checkpoint()
                last_save = time.monotonic()
        if len(progress.losses) == epoch + 1:
            progress.losses.append(held_out_loss(model, held, recipe))
            progress.log.append({"epoch": epoch + 1, "held_out_loss": round(progress.losses[-1], 4)})
            save_checkpoint()
    bar.close()
    speed = tokens / max(time.monotonic() - started, 1e-9)

    model.get_base_model().config.__dict__.pop("quantization_config", None)
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's empty card; ours is card.json
    pairs_file.write_lines(out / "log.jsonl", progress.log)
    card = {
        "base": base.name,
        "base_sha256": base.sha256,
        "data": data.name,
        "data_sha256": identity["data"],
        **{f"{name}_sha256": identity[name] for name in ("verdicts", "start") if name in identity},
        "recipe": asdict(recipe),
        "pairs": {"train": len(train) - len(judged), "held_out": len(held), "left_out": left_out, "verdicts": len(judged)},
        "held_out_loss": [round(x, 4) for x in progress.losses],
        "tokens_per_second": round(speed, 1),
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    checkpoint.unlink(missing_ok=True)
    return Run(progress.losses, out)


def encode(pair: Pair, tokenizer: Any, template: chat.Template) -> Example:
    """The token numbers of one pair. Control tokens come from the template alone, never from the person's text."""
    seen = passage.view(passage.split(pair.prompt))
    return Example(
        prompt=_ids(tokenizer, template.before, special=True) + _ids(tokenizer, seen) + _ids(tokenizer, template.after, special=True),
        answer=_ids(tokenizer, pair.target) + _ids(tokenizer, template.end, special=True),
    )


def encode_verdict(verdict: pairs_file.Verdict, tokenizer: Any, template: chat.Template) -> Example:
    """The token numbers of one verdict: all is read, and the one token after the ask is learnt."""
    seen = passage.view(passage.split(verdict.prompt))
    end = _ids(tokenizer, template.end, special=True) if verdict.better else _ids(tokenizer, chat.UNFIT)
    return Example(
        prompt=_ids(tokenizer, template.before, special=True)
        + _ids(tokenizer, seen)
        + _ids(tokenizer, template.after, special=True)
        + _ids(tokenizer, f"{chat.KEEP}\n{verdict.ask}"),
        answer=end,
        weight=VERDICT_WEIGHT,
    )


@torch.no_grad()
def held_out_loss(model: Any, examples: list[Example], recipe: Recipe) -> float:
    """Mean loss of the answers' tokens, in nats."""
    model.eval()
    total, count = 0.0, 0.0
    for batch in _cut(sorted(examples, key=_length), recipe.batch):
        loss, answers = _loss(model, batch, recipe)
        total, count = total + loss.item(), count + answers
    model.train()
    return total / count


@dataclass
class _Progress:
    """How far a run has come; saved with every checkpoint."""

    step: int
    losses: list[float]
    log: list[dict[str, Any]]


def _keep_memory() -> None:
    """Have glibc keep freed memory for the next step instead of giving it back: a fifth faster on a CPU, where page faults cost most."""
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((-1, 2**31 - 1), (-2, 256 << 20), (-3, 32 << 20)):  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
            libc.mallopt(option, value)


def _examples(pairs: list[Pair], tokenizer: Any, recipe: Recipe) -> Iterator[Example]:
    template = chat.TEMPLATES[recipe.template]
    for pair in pairs:
        example = encode(pair, tokenizer, template)
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


def _loss(model: Any, batch: list[Example], recipe: Recipe) -> tuple[torch.Tensor, float]:
    """Summed, weighted loss of a batch's answer tokens, and the sum of their weights.

    Only the answers' positions go through the output layer: with 49,152 words it is a fifth of the work. No attention mask:
    padding stands after the text, where a causal model's earlier positions never look.
    """
    width = max(map(_length, batch))
    device = next(model.parameters()).device
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    rows, columns, labels, weights = [], [], [], []
    for row, example in enumerate(batch):
        n = _length(example)
        ids[row, :n] = torch.tensor(example.prompt + example.answer)
        for offset, label in enumerate(example.answer):
            rows.append(row)
            columns.append(len(example.prompt) - 1 + offset)
            labels.append(label)
            weights.append(example.weight)
    inner = model.get_base_model()
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        hidden = inner.model(input_ids=ids.to(device), use_cache=False).last_hidden_state
        logits = inner.lm_head(hidden[rows, columns])
    losses = torch.nn.functional.cross_entropy(logits.float(), torch.tensor(labels, device=device), reduction="none")
    return (losses * torch.tensor(weights, device=device)).sum(), sum(weights)


def _update(model: Any, group: list[list[Example]], optimizer: torch.optim.Optimizer, weights: list[Any], recipe: Recipe) -> float:
    """One weight update over a group of batches; the mean loss of an answer token."""
    answers = sum(len(e.answer) * e.weight for batch in group for e in batch)
    total = 0.0
    for batch in group:
        loss, _ = _loss(model, batch, recipe)
        (loss / answers).backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total / answers
