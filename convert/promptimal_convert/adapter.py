"""A PEFT LoRA adapter (adapter_model.safetensors, adapter_config.json) into a GGUF adapter that llama.cpp can load.

promptimal-convert adapter runs/mine --base base.gguf --out mine.gguf
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from promptimal_convert.gguf_file import BadGGUF, Header, NewTensor, array_entry, entry, read_header, write

# Module names of transformers' Llama and llama.cpp's names for the same weights.
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAME = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.([\w.]+)\.lora_([AB])\.weight")


class BadAdapter(Exception):
    """An adapter that cannot be converted; the message says why."""


def convert(adapter: Path, base: Path, out: Path) -> int:
    """Convert the adapter in directory `adapter`, made on the model in `base`, and write `out`; the number of weights it changes.

    Raises BadAdapter where a file is missing or the adapter does not fit the base, BadGGUF where the base is damaged.
    """
    config = _config(adapter / "adapter_config.json")
    header = read_header(base)
    if header.values.get("general.architecture") != "llama":
        raise BadAdapter(f"{base}: only Llama models are supported, this is {header.values.get('general.architecture')!r}")
    try:
        weights = load_file(adapter / "adapter_model.safetensors")
    except Exception as error:  # safetensors raises its own type and OSError
        raise BadAdapter(f"{adapter / 'adapter_model.safetensors'}: {error}") from error
    rank = config["r"]
    alpha = config["lora_alpha"] * (rank**0.5 if config.get("use_rslora") else 1)
    tensors = []
    for name in sorted(weights):
        target, part, array = _place(name, weights[name], header)
        if array.shape[0 if part == "a" else 1] != rank:
            raise BadAdapter(f"{name}: its rank is not the configuration's {rank}")
        tensors.append(_tensor(f"{target}.lora_{part}", array))
    entries = [
        entry("general.architecture", "llama"),
        entry("general.type", "adapter"),
        entry("adapter.type", "lora"),
        entry("adapter.lora.alpha", float(alpha)),
        *_prompt_format(adapter / "card.json"),
        *_bank(adapter / "asks.safetensors"),
    ]
    write(out, entries, tensors)
    return len(tensors) // 2


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a query or key weight from transformers' rotary layout (halves) to llama.cpp's (pairs).

    `weight` has the shape (heads × head size, n).
    """
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadAdapter(f"{path}: {error}") from error
    if config.get("peft_type") != "LORA" or not isinstance(config.get("r"), int) or "lora_alpha" not in config:
        raise BadAdapter(f"{path}: not the configuration of a LoRA adapter")
    for key in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"):
        if config.get(key):
            raise BadAdapter(f"{path}: {key} is not supported")
    return dict(config)


def _prompt_format(card: Path) -> list[bytes]:
    """The prompt format that the adapter was trained with, where promptimal-train made it: a merged model tells it to the rewriter."""
    try:
        return [entry("promptimal.template", json.loads(card.read_text(encoding="utf-8"))["recipe"]["template"])]
    except (OSError, ValueError, KeyError):
        return []


def _bank(path: Path) -> list[bytes]:
    """The asks and the layer that rates them, where the adapter has one: a merged model brings them to the rewriter."""
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="numpy") as file:
            weight, bias = (file.get_tensor(name).astype("<f4") for name in ("weight", "bias"))
            sentences = [text for _, text in sorted((file.metadata() or {}).items())]
    except Exception as error:  # safetensors raises its own type and OSError
        raise BadAdapter(f"{path}: {error}") from error
    if weight.ndim != 2 or len(sentences) != weight.shape[0] or bias.shape != weight.shape[:1]:
        raise BadAdapter(f"{path}: {len(sentences)} asks do not fit weights of shape {weight.shape}")
    return [
        array_entry("promptimal.asks", sentences),
        array_entry("promptimal.asks.weight", weight.tobytes()),
        array_entry("promptimal.asks.bias", bias.tobytes()),
    ]


def _place(name: str, array: np.ndarray, base: Header) -> tuple[str, str, np.ndarray]:
    """The base tensor that an adapter's weight belongs to, its part "a" or "b", and the weight in llama.cpp's layout."""
    match = _NAME.fullmatch(name)
    if not match or match[2] not in _LAYER:
        raise BadAdapter(f"{name}: not a weight that a Llama's adapter can have")
    layer, module, part = match[1], _LAYER[match[2]], match[3].lower()
    target = f"blk.{layer}.{module}.weight"
    if target not in base.tensors:
        raise BadAdapter(f"{name}: the base model has no {target}")
    inner, outer = base.tensors[target].shape
    if array.ndim != 2 or array.shape[1 if part == "a" else 0] != (inner if part == "a" else outer):
        raise BadAdapter(f"{name}: shape {array.shape} does not fit the base model's {target}, {(outer, inner)}")
    if part == "b" and module in ("attn_q", "attn_k"):
        key = "llama.attention.head_count" if module == "attn_q" else "llama.attention.head_count_kv"
        heads = base.need(key, int)
        if heads < 1 or array.shape[0] % (2 * heads):
            raise BadGGUF(f"{base.path}: {key} = {heads} does not fit its tensors")
        array = permute(array, heads)
    return target, part, array


def _tensor(name: str, array: np.ndarray) -> NewTensor:
    # float16: half the size, and finer than any type that the merged model is quantized to.
    half = np.ascontiguousarray(array, dtype=np.float16)
    return NewTensor(name, tuple(reversed(array.shape)), 1, half.tobytes)
