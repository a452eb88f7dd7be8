"""Is a GGUF file a sound Llama or Qwen model? Refuse it before llama.cpp meets what it can only abort on.

A header can be well formed and still lie: no heads, a vocabulary of another size than the embedding, a matrix of the wrong shape, the
same token twice. llama.cpp asserts some of these, and an assertion ends the process without a word.
"""

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

from promptimal_convert.gguf_file import Array, BadGGUF, Header

_STRINGS, _FLOAT32, _INT32 = 8, 6, 5
_MAX_TOKEN = 512  # bytes


def check_model(header: Header) -> None:
    """Raise BadGGUF, with what is wrong, unless the file is a model whose keys, shapes and vocabulary agree."""
    kind = header.values.get("general.architecture")
    if kind not in ("llama", "qwen2", "qwen3"):
        raise BadGGUF(f"{header.path} is no Llama or Qwen model but {kind!r}")
    if header.values.get("general.type", "model") != "model":
        raise BadGGUF(f"{header.path} is an adapter, no model: merge it into its base with promptimal-convert merge")
    shapes = dict(_shapes(header, kind))
    for name, shape in shapes.items():
        tensor = header.tensors.get(name)
        if tensor is None:
            raise BadGGUF(f"{header.path}: tensor {name} is missing")
        if tensor.shape != shape:
            raise BadGGUF(f"{header.path}: tensor {name} has the shape {tensor.shape}, not {shape}")
        if (len(shape) == 1) != (tensor.type == 0) and not (len(shape) == 2 and tensor.type == 0):
            raise BadGGUF(f"{header.path}: tensor {name} is of a type that it cannot have")
    for name in header.tensors:
        if name not in shapes and name not in ("output.weight", "rope_freqs.weight"):
            raise BadGGUF(f"{header.path}: tensor {name} belongs to no {kind} model")
    _check_vocabulary(header, shapes["token_embd.weight"][1])


class _Sizes(NamedTuple):
    layers: int
    wide: int
    inner: int
    heads: int
    groups: int
    head: int
    words: int


def _sizes(header: Header, kind: str) -> _Sizes:
    """The sizes that the keys tell, each of them possible and fitting the others."""

    def whole(key: str, most: int) -> int:
        value = header.values.get(f"{kind}.{key}")
        if type(value) is not int or not 1 <= value <= most:
            raise BadGGUF(f"{header.path}: {kind}.{key} = {value!r} cannot be true")
        return value

    def real(key: str, least: float, most: float) -> None:
        value = header.values.get(f"{kind}.{key}")
        if type(value) is not float or not math.isfinite(value) or not least <= value <= most:
            raise BadGGUF(f"{header.path}: {kind}.{key} = {value!r} cannot be true")

    layers, wide, inner = whole("block_count", 512), whole("embedding_length", 1 << 16), whole("feed_forward_length", 1 << 18)
    heads = whole("attention.head_count", 1024)
    groups = whole("attention.head_count_kv", heads) if f"{kind}.attention.head_count_kv" in header.values else heads
    whole("context_length", 1 << 24)
    real("attention.layer_norm_rms_epsilon", 1e-12, 0.1)
    if f"{kind}.rope.freq_base" in header.values:
        real("rope.freq_base", 1.0, 1e10)
    if f"{kind}.rope.scaling.factor" in header.values:
        real("rope.scaling.factor", 0.1, 1e6)
    size = whole("attention.key_length", 1 << 12) if f"{kind}.attention.key_length" in header.values else wide // heads
    if wide < heads or heads % groups or size % 2 or (wide % heads and f"{kind}.attention.key_length" not in header.values):
        raise BadGGUF(f"{header.path}: {wide} values cannot be shared by {heads} heads in {groups} groups")
    for key in ("rope.dimension_count", "attention.value_length"):
        if header.values.get(f"{kind}.{key}", size) != size:
            raise BadGGUF(f"{header.path}: {kind}.{key} does not fit {heads} heads")
    for key in header.values:
        if key.startswith(f"{kind}.") and key.split(".", 1)[1] not in _KNOWN:
            raise BadGGUF(f"{header.path}: {key} is a key of no model made here")
    words = header.values.get("tokenizer.ggml.tokens")
    count = words.count if isinstance(words, Array) else 0
    if header.values.get(f"{kind}.vocab_size", count) != count:
        raise BadGGUF(f"{header.path}: {kind}.vocab_size is not the number of its tokens")
    return _Sizes(layers, wide, inner, heads, groups, size, count)


def _shapes(header: Header, kind: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor that the keys promise → its shape, innermost first."""
    layers, wide, inner, heads, groups, size, count = _sizes(header, kind)
    yield "token_embd.weight", (wide, count)
    yield "output_norm.weight", (wide,)
    if "output.weight" in header.tensors:
        yield "output.weight", (wide, count)
    for layer in range(layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", (wide,)
        yield f"{block}.ffn_norm.weight", (wide,)
        yield f"{block}.attn_q.weight", (wide, size * heads)
        yield f"{block}.attn_k.weight", (wide, size * groups)
        yield f"{block}.attn_v.weight", (wide, size * groups)
        yield f"{block}.attn_output.weight", (size * heads, wide)
        yield f"{block}.ffn_gate.weight", (wide, inner)
        yield f"{block}.ffn_up.weight", (wide, inner)
        yield f"{block}.ffn_down.weight", (inner, wide)
        yield from _extras(header, kind, block, {"attn_q": size * heads, "attn_k": size * groups, "attn_v": size * groups}, wide, inner)
        if kind == "qwen3":
            yield f"{block}.attn_q_norm.weight", (size,)
            yield f"{block}.attn_k_norm.weight", (size,)


def _extras(
    header: Header, kind: str, block: str, attention: dict[str, int], wide: int, inner: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Biases: Qwen2's attention has them, a Llama may."""
    sizes = {**attention, "attn_output": wide, "ffn_gate": inner, "ffn_up": inner, "ffn_down": wide}
    for module, size in sizes.items():
        name = f"{block}.{module}.bias"
        if name in header.tensors if kind == "llama" else kind == "qwen2" and module in attention:
            yield name, (size,)


_KNOWN = frozenset(
    """block_count context_length embedding_length feed_forward_length attention.head_count attention.head_count_kv attention.key_length
    attention.value_length attention.layer_norm_rms_epsilon rope.freq_base rope.dimension_count rope.scaling.type
    rope.scaling.factor rope.scaling.original_context_length vocab_size""".split()
)


def _check_vocabulary(header: Header, count: int) -> None:
    def array(name: str, kind: int) -> bytes | None:
        """The items of an array of the vocabulary, as bytes."""
        key = f"tokenizer.ggml.{name}"
        value = header.values.get(key)
        if value is None:
            return None
        if not isinstance(value, Array) or value.item_type != kind or (name != "merges" and value.count != count):
            raise BadGGUF(f"{header.path}: {key} does not fit its {count} tokens")
        return header.raw[key][8 + len(key.encode()) + 4 + 4 + 8 :]

    if header.values.get("tokenizer.ggml.model") not in ("gpt2", "llama"):
        raise BadGGUF(f"{header.path}: its tokenizer is of an unknown kind")
    tokens = array("tokens", _STRINGS)
    if tokens is None:
        raise BadGGUF(f"{header.path} has no vocabulary")
    texts = list(_texts(tokens))
    if len(set(texts)) != len(texts) or b"" in texts or max(map(len, texts)) > _MAX_TOKEN:
        raise BadGGUF(f"{header.path} is damaged: a token stands twice, or is empty or too long")
    array("scores", _FLOAT32)
    kinds = array("token_type", _INT32)
    if kinds is not None and not set(struct.unpack(f"<{count}i", kinds)) <= set(range(7)):
        raise BadGGUF(f"{header.path} is damaged: a token of an unknown kind")
    merges = array("merges", _STRINGS)
    if merges is not None and not all(b" " in text[1:] for text in _texts(merges)):
        raise BadGGUF(f"{header.path} is damaged: a merge of fewer than two parts")
    try:
        for text in texts:
            text.decode()
    except UnicodeDecodeError:
        raise BadGGUF(f"{header.path} is damaged: a token is not UTF-8") from None
    for key, value in header.values.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and (type(value) is not int or not 0 <= value < count):
            raise BadGGUF(f"{header.path}: {key} = {value!r} is no token of its vocabulary")


def _texts(data: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        yield data[position + 8 : position + 8 + length]
        position += 8 + length
