"""What llama.cpp calls the parts of a model: hyperparameters and tensor names of Llama, Mistral, Qwen2 and Qwen3.

A configuration that llama.cpp would run wrongly, or that is not known here, is refused by name.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from promptimal_convert.checkpoint import BadCheckpoint

ARCHITECTURES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
"""Class names in config.json → llama.cpp's name of the architecture."""

_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
MODULES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
"""Modules of a layer in transformers → llama.cpp's names for the same weights."""

_LAYER = re.compile(r"model\.layers\.(\d+)\.([\w.]+)")
_USELESS = re.compile(r".*\.rotary_emb\.inv_freq|.*\.attention\.(masked_)?bias")


@dataclass(frozen=True)
class Hyperparameters:
    """What config.json says, in one form whatever its age."""

    architecture: str
    layers: int
    wide: int
    inner: int
    heads: int
    groups: int
    head_size: int
    words: int
    context: int
    epsilon: float
    rope_base: float
    rope: dict[str, Any]
    tied: bool

    def reordered(self, module: str) -> int:
        """The heads whose rows are reordered in a query or key weight, 0 for any other `module` or architecture."""
        return {"attn_q": self.heads, "attn_k": self.groups}.get(module, 0) if self.architecture == "llama" else 0


def hyperparameters(config: dict[str, Any], path: object) -> Hyperparameters:
    """Read and check a configuration. Raises BadCheckpoint."""
    name = (config.get("architectures") or ["none"])[0]
    if name not in ARCHITECTURES:
        raise BadCheckpoint(
            f"{path}: {name} is not supported, only {', '.join(ARCHITECTURES)}: use convert_hf_to_gguf.py from llama.cpp for others"
        )

    def whole(key: str, default: Any = None) -> int:
        value = config.get(key)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise BadCheckpoint(f"{path}: {key} is missing from config.json or cannot be true")
        return value

    def real(key: str, value: Any) -> float:
        if type(value) not in (int, float) or not 0 < value < 1e12:
            raise BadCheckpoint(f"{path}: {key} is missing from config.json or cannot be true")
        return float(value)

    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    wide, heads = whole("hidden_size"), whole("num_attention_heads")
    result = Hyperparameters(
        architecture=ARCHITECTURES[name],
        layers=whole("num_hidden_layers"),
        wide=wide,
        inner=whole("intermediate_size"),
        heads=heads,
        groups=whole("num_key_value_heads", heads),
        head_size=whole("head_dim", 128 if ARCHITECTURES[name] == "qwen3" else wide // heads),
        words=whole("vocab_size"),
        context=whole("max_position_embeddings"),
        epsilon=real("rms_norm_eps", config.get("rms_norm_eps")),
        rope_base=real("rope_theta", rope.get("rope_theta", config.get("rope_theta", 10000.0))),
        rope=rope,
        tied=bool(config.get("tie_word_embeddings", False)),
    )
    _refuse(config, result, path)
    return result


def gguf_name(name: str) -> str | None:
    """llama.cpp's name of a weight such as model.layers.0.mlp.up_proj.weight, None for what it does without. Raises KeyError."""
    if _USELESS.fullmatch(name):
        return None
    module, _, suffix = name.rpartition(".")
    if suffix not in ("weight", "bias"):
        raise KeyError(name)
    if match := _LAYER.fullmatch(module):
        return f"blk.{int(match[1])}.{MODULES[match[2]]}.{suffix}"
    return f"{_OUTSIDE[module]}.{suffix}"


def shapes(model: Hyperparameters) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors that every model of the kind has, by llama.cpp's names → shape, outermost first."""
    queries, keys = model.heads * model.head_size, model.groups * model.head_size
    yield "token_embd.weight", (model.words, model.wide)
    yield "output_norm.weight", (model.wide,)
    if not model.tied:
        yield "output.weight", (model.words, model.wide)
    for layer in range(model.layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", (model.wide,)
        yield f"{block}.ffn_norm.weight", (model.wide,)
        yield f"{block}.attn_q.weight", (queries, model.wide)
        yield f"{block}.attn_k.weight", (keys, model.wide)
        yield f"{block}.attn_v.weight", (keys, model.wide)
        yield f"{block}.attn_output.weight", (model.wide, queries)
        yield f"{block}.ffn_gate.weight", (model.inner, model.wide)
        yield f"{block}.ffn_up.weight", (model.inner, model.wide)
        yield f"{block}.ffn_down.weight", (model.wide, model.inner)
        if model.architecture == "qwen2":
            yield f"{block}.attn_q.bias", (queries,)
            yield f"{block}.attn_k.bias", (keys,)
            yield f"{block}.attn_v.bias", (keys,)
        if model.architecture == "qwen3":
            yield f"{block}.attn_q_norm.weight", (model.head_size,)
            yield f"{block}.attn_k_norm.weight", (model.head_size,)


def describe(writer: Any, model: Hyperparameters, explicit_head: bool) -> None:
    """Give a gguf writer the hyperparameters, in the order of llama.cpp's converter. `explicit_head`: state the size of a head."""
    writer.add_block_count(model.layers)
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.wide)
    writer.add_feed_forward_length(model.inner)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.groups)
    _describe_scaling(writer, model.rope)
    writer.add_rope_freq_base(model.rope_base)
    writer.add_layer_norm_rms_eps(model.epsilon)
    if explicit_head:
        writer.add_key_length(model.head_size)
        writer.add_value_length(model.head_size)
    if model.architecture == "llama":
        writer.add_vocab_size(model.words)
        writer.add_rope_dimension_count(model.head_size)


def rope_factors(model: Hyperparameters) -> np.ndarray | None:
    """Llama 3.1's divisors of the rotary frequencies, one for each pair of a head; None for other models.

    Long waves are slowed by `factor`, short ones left, those between blended (Llama 3.1's model card). In float32, as elsewhere.
    """
    if _rope_type(model.rope) != "llama3":
        return None
    rope = model.rope
    size, factor = model.head_size, rope.get("factor", 8.0)
    low, high = rope.get("low_freq_factor", 1.0), rope.get("high_freq_factor", 4.0)
    context = rope.get("original_max_position_embeddings", 8192)
    # Step by step as PyTorch computes it, which divides a number by a tensor by way of the reciprocal: the same bits.
    one = np.float32(1)
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequencies = one / (model.rope_base ** exponents.astype(np.float64)).astype(np.float32)
    waves = (one / frequencies) * np.float32(2 * math.pi)
    blend = ((one / waves) * np.float32(context) - np.float32(low)) / np.float32(high - low)
    between = one / ((one - blend) / np.float32(factor) + blend)
    factors = np.where(waves < context / high, np.float32(1), np.where(waves > context / low, np.float32(factor), between))
    return np.asarray(factors, np.float32)


def _rope_type(rope: dict[str, Any]) -> str:
    return str(rope.get("rope_type", rope.get("type", "default")))


def _describe_scaling(writer: Any, rope: dict[str, Any]) -> None:
    from gguf import RopeScalingType

    kind = _rope_type(rope)
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _refuse(config: dict[str, Any], model: Hyperparameters, path: object) -> None:
    """Raise BadCheckpoint for what llama.cpp would compute differently."""
    kind = _rope_type(model.rope)
    if kind not in ("default", "linear", "yarn", "llama3") or (kind == "llama3" and model.architecture != "llama"):
        raise BadCheckpoint(f"{path}: rotary scaling of the type {kind} is not supported")
    needed = {
        "linear": ["factor"],
        "yarn": ["factor", "original_max_position_embeddings"],
        "llama3": ["factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"],
    }.get(kind, [])
    for key in needed:
        value = model.rope.get(key)
        if type(value) not in (int, float) or not 0.1 <= float(value or 0) < 1e9:
            raise BadCheckpoint(f"{path}: {key} of its rotary scaling is missing or cannot be true")
    if kind == "yarn" and (other := set(model.rope) - {*needed, "rope_type", "type", "rope_theta", "partial_rotary_factor"}):
        raise BadCheckpoint(f"{path}: {min(other)} of its rotary scaling is not supported")
    if model.rope.get("partial_rotary_factor", 1) != 1 or config.get("partial_rotary_factor", 1) not in (None, 1):
        raise BadCheckpoint(f"{path}: partial_rotary_factor is not supported")
    if config.get("hidden_act", "silu") != "silu":
        raise BadCheckpoint(f"{path}: the activation {config['hidden_act']} is not supported")
    if model.architecture != "llama" and config.get("use_sliding_window"):
        raise BadCheckpoint(f"{path}: use_sliding_window is not supported")
    if model.heads % model.groups or model.head_size % 2:
        raise BadCheckpoint(
            f"{path}: {model.heads} heads cannot be shared by {model.groups} groups, or a head of {model.head_size} not split"
        )
