"""A GGUF model, with a GGUF adapter added or without, in another quantization.

promptimal-convert merge base.gguf adapter.gguf --type q8_0 -o merged.gguf
"""

import re
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from promptimal_convert.gguf_file import TYPES, BadGGUF, Header, Tensor, read_header, read_tensor
from promptimal_convert.library import NoLibrary
from promptimal_convert.produce import Delta, Model, Target, Weight, produce
from promptimal_convert.quantize import MODEL_TYPES, Shape

QUANTIZATIONS = tuple(MODEL_TYPES)
"""Types a model can be written in."""

_LAYER = re.compile(r"blk\.(\d+)\.")


def merge(base: Path, adapter: Path | None, out: Path, quantization: str = "Q8_0") -> None:
    """Write `base` with `adapter` added (W + alpha / r · B A, Hu et al. 2021) to `out`, in `quantization`.

    Without an adapter the base is only quantized. Raises BadGGUF where a file is damaged, the two do not fit or llama.cpp is not
    installed, OSError where the file cannot be written.
    """
    try:
        produce(open_gguf(base, adapter), [Target(out, quantization)])
    except NoLibrary as error:
        raise BadGGUF(str(error)) from error


def open_gguf(base: Path, adapter: Path | None = None) -> Model:
    """The model that a GGUF file and a GGUF adapter make together; the adapter's entries promptimal.* go along. Raises BadGGUF."""
    model = read_header(base)
    kind = model.values.get("general.architecture")
    if kind not in ("llama", "qwen2", "qwen3") or model.values.get("general.type", "model") != "model":
        raise BadGGUF(f"{base}: only models of the architectures llama, qwen2 and qwen3 are supported, this is {kind!r}")
    if deep := [name for name, tensor in model.tensors.items() if len(tensor.shape) > 2]:
        raise BadGGUF(f"{base}: {deep[0]} is no matrix: models with experts are not supported")
    change = read_header(adapter) if adapter else None
    deltas = _deltas(change, model) if change else {}
    ours = {key: raw for key, raw in change.raw.items() if key.startswith("promptimal.")} if change else {}
    left_out = {"general.file_type", "general.alignment", *ours}
    entries = [raw for key, raw in model.raw.items() if key not in left_out]
    return Model(_shape(model), [*entries, *ours.values()], [_weight(model, name, deltas.get(name)) for name in model.tensors])


def array(file: Header, name: str) -> np.ndarray:
    """A tensor as float32, of shape (outer, …, inner)."""
    tensor = file.tensors[name]
    return _decoded(read_tensor(file, name), tensor.type).reshape(tuple(reversed(tensor.shape)))


def _shape(model: Header) -> Shape:
    kind = str(model.values.get("general.architecture"))
    heads = model.values.get(f"{kind}.attention.head_count")
    heads = heads if type(heads) is int and heads > 0 else 1
    groups = model.values.get(f"{kind}.attention.head_count_kv", heads)
    layers = 1 + max((int(match[1]) for name in model.tensors if (match := _LAYER.match(name))), default=0)
    return Shape(kind, layers, heads, groups if type(groups) is int and groups > 0 else heads, "output.weight" not in model.tensors)


def _weight(model: Header, name: str, delta: Delta | None) -> Weight:
    tensor = model.tensors[name]
    shape = tuple(reversed(tensor.shape))
    kind, _, _ = TYPES[tensor.type]
    row = tensor.size // shape[0]

    def raw(start: int, stop: int) -> bytes:
        if len(shape) == 1 and row * shape[0] != tensor.size:
            raise BadGGUF(f"{model.path}: {name} is a vector in blocks")
        with model.path.open("rb") as file:
            file.seek(tensor.offset + start * row)
            data = file.read((stop - start) * row)
        if len(data) != (stop - start) * row:
            raise BadGGUF(f"{model.path} is cut off in {name}")
        return data

    def read(start: int, stop: int) -> np.ndarray:
        return _decoded(raw(start, stop), tensor.type).reshape(stop - start, *shape[1:])

    return Weight(name, shape, read, delta, 0, kind, raw)


def _decoded(raw: bytes, kind: int) -> np.ndarray:
    """Stored values as float32, flat."""
    data = np.frombuffer(raw, np.uint8)
    if TYPES[kind][0] in ("F32", "F16"):
        return data.view(np.float32 if TYPES[kind][0] == "F32" else np.float16).astype(np.float32)
    return np.asarray(dequantize(data, GGMLQuantizationType(kind)), dtype=np.float32)


def _deltas(adapter: Header, base: Header) -> dict[str, Delta]:
    """The base tensors that an adapter changes → their changes."""
    if adapter.values.get("adapter.type") != "lora":
        raise BadGGUF(f"{adapter.path} is no LoRA adapter")
    alpha = adapter.need("adapter.lora.alpha", float)
    deltas: dict[str, Delta] = {}
    for name, low in adapter.tensors.items():
        target, _, part = name.rpartition(".lora_")
        if part != "a":
            continue
        high = adapter.tensors.get(f"{target}.lora_b")
        whole = base.tensors.get(target)
        if high is None or whole is None or len(low.shape) != 2 or len(high.shape) != 2:
            raise BadGGUF(f"{adapter.path}: {name} has no counterpart in {base.path}")
        if (low.shape[0], high.shape[1]) != whole.shape or low.shape[1] != high.shape[0]:
            raise BadGGUF(f"{adapter.path}: {name} does not fit {base.path}")
        if target == "token_embd.weight":
            raise BadGGUF(f"{adapter.path}: a change of {target} cannot be merged")
        deltas[target] = _delta(adapter, target, whole, float(np.float32(alpha / low.shape[1])))
    if not deltas:
        raise BadGGUF(f"{adapter.path} changes nothing")
    return deltas


def _delta(adapter: Header, target: str, whole: Tensor, scale: float) -> Delta:
    inner, outer = whole.shape
    left, right = f"{target}.lora_b", f"{target}.lora_a"
    return Delta((outer, inner), lambda start, stop: array(adapter, left)[start:stop], lambda: array(adapter, right), scale)
