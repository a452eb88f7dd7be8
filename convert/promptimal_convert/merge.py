"""Merge a GGUF adapter into a GGUF base and quantize the result, one tensor at a time, in NumPy.

promptimal-convert merge base.gguf adapter.gguf --type Q8_0 --out merged.gguf
"""

from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from promptimal_convert.gguf_file import TYPES, BadGGUF, Header, NewTensor, entry, read_header, read_tensor, write

QUANTIZATIONS = {"F16": 1, "Q8_0": 8, "Q5_1": 7, "Q5_0": 6, "Q4_1": 3, "Q4_0": 2}
"""Types a merged model can be written in → their numbers, and the `general.file_type` numbers below."""
_FILE_TYPES = {"F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9}


def merge(base: Path, adapter: Path | None, out: Path, quantization: str = "Q8_0") -> None:
    """Write `base` with `adapter` added (W + alpha / r · B A, Hu et al. 2021) to `out`, its matrices in `quantization`.

    Without an adapter the base is only quantized. The embedding and the vectors keep their bytes.
    Raises BadGGUF where a file is damaged or the two do not fit.
    """
    model = read_header(base)
    change = read_header(adapter) if adapter else None
    deltas = _deltas(change, model) if change else {}
    kind = QUANTIZATIONS[quantization]

    def new(name: str) -> NewTensor:
        tensor = model.tensors[name]
        matrix = len(tensor.shape) == 2 and tensor.shape[0] % TYPES[kind][1] == 0
        if not matrix or name == "token_embd.weight" or (tensor.type == kind and name not in deltas):
            return NewTensor(name, tensor.shape, tensor.type, lambda: read_tensor(model, name))

        def data() -> bytes:
            weights = array(model, name)
            if name in deltas and change:
                low, high = (array(change, f"{name}.lora_{part}") for part in "ab")
                weights = weights + deltas[name] * (high @ low)
            return bytes(quantize(weights, GGMLQuantizationType(kind)).tobytes())

        return NewTensor(name, tensor.shape, kind, data)

    ours = {key: raw for key, raw in change.raw.items() if key.startswith("promptimal.")} if change else {}
    left_out = {"general.file_type", "general.alignment", *ours}
    entries = [raw for key, raw in model.raw.items() if key not in left_out]
    entries.append(entry("general.file_type", _FILE_TYPES[quantization]))
    entries += ours.values()
    write(out, entries, [new(name) for name in model.tensors])


def array(file: Header, name: str) -> np.ndarray:
    """A tensor as float32, of shape (outer, …, inner)."""
    tensor = file.tensors[name]
    kind = GGMLQuantizationType(tensor.type)
    raw = np.frombuffer(read_tensor(file, name), dtype=np.uint8)
    rows = raw.reshape(*reversed(tensor.shape[1:]), -1)
    if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        kinds = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
        return rows.view(kinds[kind]).astype(np.float32)
    return np.asarray(dequantize(rows, kind), dtype=np.float32)


def _deltas(adapter: Header, base: Header) -> dict[str, np.float32]:
    """The base tensors that an adapter changes → its scale, alpha / rank."""
    if adapter.values.get("adapter.type") != "lora":
        raise BadGGUF(f"{adapter.path} is no LoRA adapter")
    alpha = adapter.need("adapter.lora.alpha", float)
    scales: dict[str, np.float32] = {}
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
        if target == "token_embd.weight" or whole.shape[0] % 32:
            raise BadGGUF(f"{adapter.path}: a change of {target} cannot be merged")
        scales[target] = np.float32(alpha / low.shape[1])
    if not scales:
        raise BadGGUF(f"{adapter.path} changes nothing")
    return scales
