"""Our training loop beside TRL's SFTTrainer: same base, adapter, pairs, order of magnitude of steps; tokens a second, peak memory, held-out loss.

    pip install trl datasets && python bench/sft_trainer.py [steps] [rounds]

Each run is a process of its own, in turn; medians. Both get the same token numbers, and learn the answers alone. SFTTrainer runs with its
defaults, among them gradient checkpointing, and without that; ours scores both.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import machine

from promptimal_trainer import pairs
from promptimal_trainer.recipe import Recipe, read_recipe

WAYS = ("ours", "SFTTrainer", "SFTTrainer, no checkpointing")
HELD = 64


def run(way: str, steps: int) -> dict[str, float]:
    """Train; what came of it."""
    import torch

    from promptimal_trainer import memory
    from promptimal_trainer.base import load
    from promptimal_trainer.batches import encode_all
    from promptimal_trainer.distributed import join
    from promptimal_trainer.network import Network, held_out

    recipe, world = replace(read_recipe("smollm2-135m"), epochs=1), join()
    torch.manual_seed(recipe.seed)
    if way == "ours":
        memory.keep_freed()
    all_pairs = [replace(pair, asks=None) for pair in pairs.read(pairs.DEFAULT)[: steps * recipe.batch + HELD]]  # free: more to write
    base = load(recipe.base, torch.bfloat16)
    examples = encode_all(all_pairs, base.tokenizer, recipe, None)
    held, train = examples[:HELD], examples[HELD : HELD + steps * recipe.batch]
    network = Network(base.model, None, replace(recipe, gradient_checkpointing=False), torch.bfloat16)
    go = _ours(network, recipe, train) if way == "ours" else _trl(network, recipe, train, base.tokenizer, "no" not in way)
    started = time.monotonic()
    go()
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"tokens/s": sum(map(len, train)) / seconds, "peak": peak, "loss": held_out(network, held, recipe, world).words}


def _ours(network: Any, recipe: Recipe, train: list[Any]) -> Callable[[], None]:
    from promptimal_trainer.batches import updates
    from promptimal_trainer.distributed import join
    from promptimal_trainer.training import Training

    training = Training(recipe, network, train, [], join(), Path(), {})

    def go() -> None:
        for step, examples in enumerate(updates(train, recipe, 0), 1):
            training.update(examples, step)

    return go


def _trl(network: Any, recipe: Recipe, train: list[Any], tokenizer: Any, checkpointing: bool) -> Callable[[], None]:
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from peft.tuners.lora import LoraLayer
    from trl import SFTConfig, SFTTrainer

    columns = {
        "input_ids": [e.prompt + e.answer for e in train],
        "labels": [[-100] * len(e.prompt) + e.answer for e in train],
    }
    rows = Dataset(InMemoryTable.from_pydict(columns), fingerprint="pairs")
    for module in network.model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = True  # as PEFT comes
    base = network.model.get_base_model()  # it was dequantized, and says that it was not
    base.config.__dict__.pop("quantization_config", None)
    base.is_quantized, base.hf_quantizer = False, None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=recipe.batch,
        num_train_epochs=1,
        learning_rate=recipe.lr,
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe.warmup * len(train) / recipe.batch),
        max_grad_norm=recipe.clip,
        weight_decay=recipe.weight_decay,
        bf16=True,
        completion_only_loss=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataset_kwargs={"skip_prepare_dataset": True},  # the pairs are token numbers already
        seed=recipe.seed,
        **({} if checkpointing else {"gradient_checkpointing": False}),
    )
    trainer = SFTTrainer(network.model, settings, train_dataset=rows, processing_class=tokenizer)

    def go() -> None:
        trainer.train()

    return go


def main(steps: int, rounds: int) -> None:
    """Print the table."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            done = subprocess.run([sys.executable, __file__, way, str(steps)], stdout=subprocess.PIPE, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(way, found[way][-1], file=sys.stderr)
    print(f"{machine()}; {steps} steps of 16 sequences, medians of {rounds}\n")
    print("| | tokens/s | peak memory | held-out loss |\n| --- | --- | --- | --- |")
    for way, runs in found.items():
        speed, peak, loss = (statistics.median(r[key] for r in runs) for key in ("tokens/s", "peak", "loss"))
        print(f"| {way} | {speed:.0f} | {peak / 1e9:.2f} GB | {loss:.3f} |")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in WAYS:
        print(json.dumps(run(sys.argv[1], int(sys.argv[2]))))
    else:
        main(*(int(argument) for argument in (sys.argv[1:] + ["40", "3"][len(sys.argv) - 1 :])))
