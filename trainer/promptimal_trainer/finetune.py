"""Fine-tune a LoRA adapter on pairs, by a recipe; the loss counts the model's answer alone.

    promptimal-train finetune --recipe smollm2-135m --out runs/mine

Where the pairs have lists of asks, a linear layer on the last hidden state of the prompt is trained along with the adapter: it rates each of
the asks (see `head`). Writes into the output directory: `adapter_model.safetensors` and `adapter_config.json` (PEFT's format), `asks.txt` and
`asks.safetensors` (the sentences and the layer), `card.json` (what it was made from and how it scored), `log.jsonl` (a line an update) and, while running,
`checkpoint.pt`; the same command goes on from there.
"""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from promptimal_trainer import base as base_model
from promptimal_trainer import checkpoint, head, memory
from promptimal_trainer import pairs as pairs_file
from promptimal_trainer.batches import encode_all
from promptimal_trainer.distributed import World, join, leave, settle, whole
from promptimal_trainer.network import Network, Scores
from promptimal_trainer.recipe import BadRecipe, Recipe
from promptimal_trainer.training import Training


@dataclass(frozen=True)
class Run:
    """The outcome of a run: held-out scores before and after each epoch, and the adapter's directory."""

    scores: list[Scores]
    directory: Path


def finetune(recipe: Recipe, data: Path, out: Path, *, limit: int | None = None) -> Run:
    """Train an adapter on `data` and write it to `out`; goes on from a checkpoint there that has the same recipe and data.

    `limit` takes only the first so many training pairs. The same recipe, data and machine give the same adapter. Under torchrun all
    processes call it. Raises BadPairs, BadRecipe, checkpoint.BadCheckpoint, base.BadBase, training.Diverged.
    """
    world = join()
    try:
        check_hardware(recipe, world)
        return _finetune(recipe, data, out, limit, world)
    finally:
        leave()


def check_hardware(recipe: Recipe, world: World) -> None:
    """Raise BadRecipe where this machine cannot do what the recipe asks for."""
    if recipe.quantize == "nf4" and world.device.type != "cuda":
        raise BadRecipe(
            'key quantize: "nf4" needs a CUDA GPU, and torch sees none here: set quantize = "none", or run it where there is one'
        )
    if precision(recipe, world) == torch.float16 and world.size > 1:
        raise BadRecipe('key precision: float16 runs on one GPU only: set precision = "float32", or "bfloat16" where the GPUs have it')


def precision(recipe: Recipe, world: World) -> torch.dtype:
    """The type to compute in; "auto" is bfloat16 where the chip has it, else float16 on a GPU and float32 on a CPU."""
    if recipe.precision != "auto":
        return getattr(torch, recipe.precision)  # type: ignore[no-any-return]
    if world.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else torch.float32


def _finetune(recipe: Recipe, data: Path, out: Path, limit: int | None, world: World) -> Run:
    memory.keep_freed()
    _be_reproducible(recipe)
    pairs = pairs_file.read(data)
    train_pairs = [p for p in pairs if not pairs_file.is_held_out(p.prompt, recipe.held_out)][:limit]
    held_pairs = [p for p in pairs if pairs_file.is_held_out(p.prompt, recipe.held_out)]
    base = base_model.load(recipe.base, precision(recipe, world), world.device if recipe.quantize == "nf4" else None)
    identity = {"recipe": asdict(recipe), "data_sha256": pairs_file.sha256(data), "base_sha256": base.sha256, "limit": limit}
    if finished := _finished(out, identity):
        world.say(f"{out} holds the adapter of this recipe and data already")
        return finished
    asks = head.make(train_pairs, base.model.config.hidden_size)
    train, held = (encode_all(part, base.tokenizer, recipe, asks) for part in (train_pairs, held_pairs))
    left_out = len(train_pairs) + len(held_pairs) - len(train) - len(held)
    if not train or not held:
        raise pairs_file.BadPairs(f"{data}: too few pairs: {len(train)} to train on, {len(held)} held out")
    if left_out:
        world.say(f"{left_out} pairs longer than {recipe.max_tokens} tokens are left out")

    network = Network(base.model, asks, recipe, precision(recipe, world))
    settle(network, network.layers, world)
    training = Training(recipe, network, train, held, world, out, identity)
    training.resume()
    speed = training.run()
    card = {
        "base": base.name,
        **identity,
        "data": data.name,
        "pairs": {"train": len(train), "held_out": len(held), "left_out": left_out},
        "asks": len(asks.sentences) if asks else 0,
        "held_out": [score._asdict() for score in training.progress.scores],
        "tokens_per_second": round(speed, 1),
        "processes": world.size,
    }
    _write(out, network, card, training.progress.log, world)
    return Run(training.progress.scores, out)


def _finished(out: Path, identity: dict[str, Any]) -> Run | None:
    """The run whose adapter is in `out` already. Raises BadCheckpoint where it is another one's: it is not written over."""
    if not (out / "card.json").exists():
        return None
    card = json.loads((out / "card.json").read_text(encoding="utf-8"))
    if any(card.get(key) != value for key, value in identity.items()):
        raise checkpoint.BadCheckpoint(f"{out} holds the adapter of another recipe or other data: give another --out, or delete it")
    return Run([Scores(**score) for score in card["held_out"]], out)


def _write(out: Path, network: Network, card: dict[str, Any], log: list[dict[str, Any]], world: World) -> None:
    """Write the adapter and what belongs to it, each file whole or not at all, the card last; then the checkpoint can go.

    Raises BadCheckpoint where they cannot be written.
    """
    weights = {name: whole(p) for name, p in checkpoint.trained(network).items()}
    if world.rank:
        return
    try:
        _write_files(out, network, weights, card, log)
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "the disk is full, or a file may not be as large"
        message = f"the adapter cannot be written to {out}: {reason}; {checkpoint.kept(out)}. Make room, and run the same command again"
        raise checkpoint.BadCheckpoint(message) from error
    (out / checkpoint.NAME).unlink(missing_ok=True)


def _write_files(out: Path, network: Network, weights: dict[str, torch.Tensor], card: dict[str, Any], log: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory(dir=out, prefix=".new") as name:
        new = Path(name)
        network.model.get_base_model().config.__dict__.pop("quantization_config", None)
        adapter = {name.removeprefix("model."): tensor for name, tensor in weights.items() if name.startswith("model.")}
        network.model.save_pretrained(new, state_dict=adapter, save_embedding_layers=False)
        (new / "README.md").unlink(missing_ok=True)  # PEFT's empty card; ours is card.json
        if network.asks:
            head.save(network.asks.sentences, {name: weights[f"asks.{name}"] for name in ("weight", "bias")}, new)
        pairs_file.write_lines(new / "log.jsonl", log)
        (new / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        for file in sorted(new.iterdir(), key=lambda file: file.name == "card.json"):
            file.replace(out / file.name)


def _be_reproducible(recipe: Recipe) -> None:
    """The same numbers on the same machine; on a GPU as far as its kernels allow, with a warning where they do not."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it, before its first call
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
