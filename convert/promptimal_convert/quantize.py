"""Which type each tensor of a quantized model gets, and its bytes: llama.cpp's rules, and llama.cpp's own quantizers.

The rules are those that llama-quantize follows (its K-quants keep the tensors that matter most in finer types); tests hold them against
`llama_model_quantize` for models of many shapes. The bytes come from `ggml_quantize_chunk`, the function that it calls.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from promptimal_convert.gguf_file import TYPES, BadGGUF, read_header, read_tensor
from promptimal_convert.library import ggml

NUMBERS = {name: number for number, (name, _, _) in TYPES.items()}
"""Tensor type's name → its number in a file."""

MODEL_TYPES = {
    "F32": (0, "F32"), "F16": (1, "F16"), "BF16": (32, "BF16"), "Q8_0": (7, "Q8_0"), "Q6_K": (18, "Q6_K"),
    "Q5_K_M": (17, "Q5_K"), "Q5_K_S": (16, "Q5_K"), "Q5_1": (9, "Q5_1"), "Q5_0": (8, "Q5_0"),
    "Q4_K_M": (15, "Q4_K"), "Q4_K_S": (14, "Q4_K"), "Q4_1": (3, "Q4_1"), "Q4_0": (2, "Q4_0"),
    "Q3_K_L": (13, "Q3_K"), "Q3_K_M": (12, "Q3_K"), "Q3_K_S": (11, "Q3_K"), "Q2_K": (10, "Q2_K"),
}  # fmt: skip
"""Types a model can be written in → the number of `general.file_type`, and the type of most of its matrices."""

_FLOATS = ("F32", "F16", "BF16")
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""Types in blocks of 256 → what a matrix gets whose rows are no multiple of 256."""


@dataclass(frozen=True)
class Shape:
    """What the choice of types depends on."""

    architecture: str
    layers: int
    heads: int
    groups: int
    tied: bool


def tensor_type(kind: str, name: str, shape: tuple[int, ...], model: Shape, weighed: bool = False) -> str:
    """The type of tensor `name` (shape outermost first) in a model of type `kind`; `weighed` with an importance matrix."""
    if len(shape) < 2 or not name.endswith(".weight") or name.endswith("_norm.weight"):
        return "F32"
    wanted = MODEL_TYPES[kind][1]
    if kind in _FLOATS:
        return wanted
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        if shape[-1] % TYPES[NUMBERS[wanted]][1]:
            wanted = "Q8_0"
        elif wanted != "Q8_0":
            wanted = "Q6_K"
    elif match := _LAYER.fullmatch(name):
        wanted = _in_layer(kind, match[2], int(match[1]), model, weighed) or wanted
    if shape[-1] % TYPES[NUMBERS[wanted]][1]:
        wanted = _FALLBACK.get(wanted, "F16")
    return wanted if shape[-1] % TYPES[NUMBERS[wanted]][1] == 0 else "F16"


def _in_layer(kind: str, module: str, layer: int, model: Shape, weighed: bool) -> str | None:
    """The type of a matrix that llama.cpp makes an exception for."""
    layers = model.layers
    more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    if module == "attn_v":
        wanted = {
            "Q2_K": "Q4_K" if model.heads // model.groups >= 4 else "Q3_K",
            "Q3_K_M": "Q5_K" if layer < 2 else "Q4_K",
            "Q3_K_L": "Q5_K",
            "Q4_K_S": "Q5_K" if layer < 4 else None,
            "Q4_K_M": "Q6_K" if more else None,
            "Q5_K_M": "Q6_K" if more else None,
        }.get(kind)
        large = model.layers == 80 and model.architecture in ("llama", "qwen2") and model.heads != model.groups
        return "Q5_K" if large and (wanted or MODEL_TYPES[kind][1]) in ("Q3_K", "Q4_K") else wanted
    if module == "ffn_down":
        early = layer < layers // 8
        return {
            "Q2_K": "Q3_K",
            "Q3_K_M": "Q5_K" if layer < layers // 16 else "Q4_K",
            "Q3_K_L": "Q5_K",
            "Q4_K_M": "Q6_K" if more else None,
            "Q5_K_M": "Q6_K" if more else None,
            "Q4_K_S": "Q5_K" if early else None,
            "Q4_0": "Q4_1" if early and weighed else None,
            "Q5_0": "Q5_1" if early and weighed else None,
        }.get(kind)
    if module == "attn_output":
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(kind)
    return None


def encode(values: np.ndarray, kind: str, importance: np.ndarray | None = None) -> bytes:
    """Rows of float32 in the tensor type `kind`. `importance` weighs the columns."""
    if kind == "F32":
        return values.tobytes()
    if kind == "F16":
        return values.astype(np.float16).tobytes()
    if kind == "BF16":
        bits = values.view(np.uint32)
        nearest_even = (bits.astype(np.uint64) + (0x7FFF + ((bits >> 16) & 1))) >> 16
        return nearest_even.astype(np.uint16).tobytes()
    values = np.ascontiguousarray(values, np.float32)
    rows, width = values.shape
    _, block, size = TYPES[NUMBERS[kind]]
    out = np.empty(rows * width // block * size, np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    ggml().ggml_quantize_chunk(
        NUMBERS[kind], values.ctypes.data, out.ctypes.data, 0, rows, width, None if weights is None else weights.ctypes.data
    )
    return out.tobytes()


def read_importance(path: Path) -> dict[str, np.ndarray]:
    """The importance matrix that llama-imatrix wrote: tensor name → the weight of each column. Raises BadGGUF."""
    header = read_header(path)
    if header.values.get("general.type") != "imatrix":
        raise BadGGUF(f"{path} is no importance matrix in GGUF: make it with a current llama-imatrix")
    weights = {}
    for key in header.tensors:
        name, _, part = key.rpartition(".")
        if part != "in_sum2":
            continue
        counts = header.tensors.get(f"{name}.counts")
        if counts is None or counts.type != 0 or header.tensors[key].type != 0:
            raise BadGGUF(f"{path}: {key} has no counts")
        sums = np.frombuffer(read_tensor(header, key), np.float32)
        count = np.frombuffer(read_tensor(header, f"{name}.counts"), np.float32)
        if len(count) != 1 or count[0] <= 0:
            raise BadGGUF(f"{path}: {key} was made on no text, or on experts")
        weights[name] = sums / count[0]
    if not weights:
        raise BadGGUF(f"{path} weighs no tensor")
    return weights
