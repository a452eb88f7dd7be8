"""Small random models of every architecture that can be converted, written as the folders that the hub has. NumPy alone, always the same.

The tokenizers beside this file were trained once on a few pages of text (`bench/oracle.py --train`).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TOKENIZERS = Path(__file__).parent / "tokenizers"


class Tiny(NamedTuple):
    """A model to build: its configuration, its tokenizer's directory, the type its weights are stored in, and in how many shards."""

    config: dict[str, Any]
    tokenizer: str
    dtype: str = "F32"
    shards: int = 1


def _config(architecture: str, words: int, **more: Any) -> dict[str, Any]:
    kind = architecture.removesuffix("ForCausalLM").lower()
    return {
        "architectures": [architecture], "model_type": kind, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": words, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, **more,
    }  # fmt: skip


LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512,
}  # fmt: skip

MODELS = {
    "llama2": Tiny(_config("LlamaForCausalLM", 512, num_key_value_heads=4), "sentencepiece", "F16", 3),
    "llama3": Tiny(_config("LlamaForCausalLM", 512, rope_theta=500000.0, rope_scaling=LLAMA3_ROPE), "llama3", "BF16"),
    "smollm": Tiny(_config("LlamaForCausalLM", 512, tie_word_embeddings=True, rope_theta=100000.0), "smollm"),
    "stretched": Tiny(
        _config("LlamaForCausalLM", 520, attention_bias=True, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}), "smollm"
    ),
    "mistral": Tiny(_config("MistralForCausalLM", 512, head_dim=32, sliding_window=None, rope_theta=1e6), "sentencepiece", "BF16", 2),
    "qwen2": Tiny(_config("Qwen2ForCausalLM", 520, tie_word_embeddings=True, use_sliding_window=False, rope_theta=1e6), "qwen", "BF16"),
    "qwen3": Tiny(_config("Qwen3ForCausalLM", 520, head_dim=128, use_sliding_window=False, rope_theta=1e6, attention_bias=False), "qwen", "BF16", 2),
}  # fmt: skip
"""Names → models."""


def build(name: str, folder: Path) -> Path:
    """Write the model `name` into a directory of its name inside `folder`."""
    return write(MODELS[name], folder / f"Tiny-{name}")


def write(model: Tiny, out: Path) -> Path:
    """Write a model into a new directory."""
    out.mkdir()
    (out / "config.json").write_text(json.dumps(model.config))
    for file in (TOKENIZERS / model.tokenizer).iterdir():
        shutil.copy(file, out)
    save(weights(model.config), out, model.dtype, model.shards)
    return out


def weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Random weights by transformers' names, about as large as trained ones."""
    draw = np.random.default_rng(7)
    wide, inner = config["hidden_size"], config["intermediate_size"]
    size = config.get("head_dim") or wide // config["num_attention_heads"]
    queries, keys = size * config["num_attention_heads"], size * config["num_key_value_heads"]

    def matrix(rows: int, columns: int) -> np.ndarray:
        return draw.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)

    def vector(count: int, middle: float = 1) -> np.ndarray:
        return draw.normal(middle, 0.1, count).astype(np.float32)

    found = {"model.embed_tokens.weight": matrix(config["vocab_size"], wide), "model.norm.weight": vector(wide)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = matrix(config["vocab_size"], wide)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        shapes = {"q": (queries, wide), "k": (keys, wide), "v": (keys, wide), "o": (wide, queries)}
        for part, shape in shapes.items():
            found[f"{block}.self_attn.{part}_proj.weight"] = matrix(*shape)
            if config.get("attention_bias") or (config["model_type"] == "qwen2" and part != "o"):
                found[f"{block}.self_attn.{part}_proj.bias"] = vector(shape[0], 0)
        if config["model_type"] == "qwen3":
            found |= {f"{block}.self_attn.{part}_norm.weight": vector(size) for part in "qk"}
        for part, shape in {"gate": (inner, wide), "up": (inner, wide), "down": (wide, inner)}.items():
            found[f"{block}.mlp.{part}_proj.weight"] = matrix(*shape)
        found |= {f"{block}.{part}_layernorm.weight": vector(wide) for part in ("input", "post_attention")}
    return found


def save(tensors: dict[str, np.ndarray], folder: Path, dtype: str = "F32", shards: int = 1) -> None:
    """Write weights as safetensors, in several shards with an index where more than one is wanted."""
    names = sorted(tensors)
    parts = [names[i::shards] for i in range(shards)]
    files = ["model.safetensors"] if shards == 1 else [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    for file, part in zip(files, parts, strict=True):
        (folder / file).write_bytes(safetensors({name: tensors[name] for name in part}, dtype))
    if shards > 1:
        places = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def safetensors(tensors: dict[str, np.ndarray], dtype: str = "F32") -> bytes:
    """The bytes of a safetensors file; bfloat16, which NumPy does not have, by cutting float32."""
    encode: dict[str, Callable[[np.ndarray], bytes]] = {
        "F32": lambda a: a.astype("<f4").tobytes(),
        "F16": lambda a: a.astype("<f2").tobytes(),
        "BF16": lambda a: (a.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes(),
    }
    header, parts, size = {}, [], 0
    for name, tensor in tensors.items():
        parts.append(encode[dtype](np.ascontiguousarray(tensor)))
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [size, size + len(parts[-1])]}
        size += len(parts[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def adapter(base: dict[str, np.ndarray], folder: Path, modules: list[str], rank: int = 4, **more: Any) -> Path:
    """A random LoRA adapter in PEFT's format that changes the matrices whose names end in one of `modules`."""
    draw = np.random.default_rng(8)
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "bias": "none", "target_modules": modules, "task_type": "CAUSAL_LM", **more}
    found: dict[str, np.ndarray] = {}
    for name, matrix in base.items():
        module = name.removesuffix(".weight")
        if not module.endswith(tuple(modules)):
            continue
        rows, columns = matrix.shape
        low, high = draw.normal(0, 0.1, (rank, columns)), draw.normal(0, 0.1, (rows, rank))
        if module.endswith("embed_tokens"):
            low, high = draw.normal(0, 0.1, (rank, rows)), draw.normal(0, 0.1, (columns, rank))
            found |= {f"base_model.model.{module}.lora_embedding_A": low, f"base_model.model.{module}.lora_embedding_B": high}
        else:
            found |= {f"base_model.model.{module}.lora_A.weight": low, f"base_model.model.{module}.lora_B.weight": high}
    (folder / "adapter_model.safetensors").write_bytes(safetensors(found))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
