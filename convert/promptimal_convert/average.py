"""The mean of GGUF LoRA adapters that runs of one recipe made on one base: as a rule better than any of them, at the price of one ("model soups",
Wortsman et al., 2022, https://arxiv.org/abs/2203.05482).

The mean of k changes of rank r has rank k r. Kept is the nearest change of rank r, by its singular values.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from promptimal_convert.adapter import half
from promptimal_convert.gguf_file import BadGGUF, Header, NewTensor, array_entry, float_bytes, read_header, write
from promptimal_convert.merge import array

_LAYER = ("promptimal.asks.weight", "promptimal.asks.bias")


def average(adapters: Sequence[Path], out: Path) -> None:
    """Write the mean of adapters, and of the layers that rate their asks, to `out`; what else stands in a header is the first one's.

    Raises BadGGUF where they differ in base, rank, what they change or the asks they rate, OSError where `out` cannot be written.
    """
    files = [read_header(path) for path in adapters]
    first = files[0]
    for other in files[1:]:
        _check_alike(first, other)
    targets = [name.removesuffix(".lora_a") for name in first.tensors if name.endswith(".lora_a")]
    tensors = [tensor for target in targets for tensor in _mean(files, target)]
    layer = {key: array_entry(key, _mean_layer(files, key)) for key in _LAYER if key in first.raw}
    write(out, [*{**first.raw, **layer}.values()], tensors)


def _check_alike(first: Header, other: Header) -> None:
    """Raise BadGGUF where two adapters have no mean."""
    shapes = [[(name, tensor.shape) for name, tensor in sorted(file.tensors.items())] for file in (first, other)]
    same = ("adapter.type", "adapter.lora.alpha", "promptimal.base_sha256", "promptimal.template")
    if shapes[0] != shapes[1] or any(first.values.get(key) != other.values.get(key) for key in same):
        raise BadGGUF(f"{other.path} and {first.path} are adapters of other bases or ranks")
    if first.raw.get("promptimal.asks") != other.raw.get("promptimal.asks"):
        raise BadGGUF(f"{other.path} and {first.path} rate other asks")


def _mean(files: Sequence[Header], target: str) -> list[NewTensor]:
    """The two matrices of the mean change of one tensor, in the rank of one."""
    left = np.hstack([array(file, f"{target}.lora_b") for file in files]) / len(files)
    right = np.vstack([array(file, f"{target}.lora_a") for file in files])
    rank = right.shape[0] // len(files)
    # The product is as large as the base's tensor; its singular values are those of what stands between two orthogonal bases.
    (outer, upper), (inner, lower) = np.linalg.qr(left), np.linalg.qr(right.T)
    u, values, v = np.linalg.svd(upper @ lower.T)
    root = np.sqrt(values[:rank])
    return [half(f"{target}.lora_a", root[:, None] * v[:rank] @ inner.T), half(f"{target}.lora_b", outer @ u[:, :rank] * root)]


def _mean_layer(files: Sequence[Header], key: str) -> bytes:
    numbers = [np.frombuffer(float_bytes(file, key), "<f4") for file in files]
    return np.mean(numbers, axis=0, dtype=np.float64).astype("<f4").tobytes()
