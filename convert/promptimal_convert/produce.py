"""Weights to GGUF files: read, add the adapter, round, quantize and write, a few million values at a time.

However large the model, only some pieces are in memory, one or two for each processor. Several files of different types come from one
reading. A quantized type is made from the weights rounded to float16, so its bytes are those of `llama-quantize` on the F16 file.
"""

import errno
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from promptimal_convert.gguf_file import BadGGUF, Writer, entry
from promptimal_convert.quantize import MODEL_TYPES, NUMBERS, Shape, encode, tensor_type

_PIECE = 1 << 21
"""Values a piece: 8 MB as float32."""


class BadWeights(BadGGUF):
    """Weights that cannot be written; the message says why."""


@dataclass(frozen=True)
class Delta:
    """A change of a matrix: scale · left @ right. Its two parts are read when they are needed, for an adapter can be large as well.

    `shape` is the matrix's; `left(start, stop)` reads rows of (rows, rank), `right()` all of (rank, columns).
    """

    shape: tuple[int, int]
    left: Callable[[int, int], np.ndarray]
    right: Callable[[], np.ndarray]
    scale: float

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows of the change, in float64, so that the sum with the weights is rounded only once."""
        product: np.ndarray = self.left(start, stop).astype(np.float64) @ self.right().astype(np.float64)
        return product * self.scale


@dataclass(frozen=True)
class Weight:
    """A tensor to be: its GGUF name, its shape outermost first, and how to read rows of it as float32.

    `heads` > 0 means that the rows of each head must be reordered. `as_is` gives the stored bytes of rows where the
    tensor is of type `kind` already.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[int, int], np.ndarray]
    delta: Delta | None = None
    heads: int = 0
    kind: str = ""
    as_is: Callable[[int, int], bytes] | None = None


@dataclass(frozen=True)
class Model:
    """All that a GGUF file needs: entries for its header, without `general.file_type`, and weights in order."""

    shape: Shape
    entries: list[bytes]
    weights: list[Weight]


@dataclass(frozen=True)
class Target:
    """A file to write and the type of model in it."""

    path: Path
    kind: str
    importance: dict[str, np.ndarray] = field(default_factory=dict)


Progress = Callable[[int, int], None]
"""Told how many bytes of how many are written."""


def produce(model: Model, targets: list[Target], progress: Progress = lambda done, total: None) -> None:
    """Write all targets in one reading of the weights; either all of them appear, or none.

    Raises BadWeights where a weight is no number, OSError where the disk is too small, and what reading raises.
    """
    for target in targets:
        _check_importance(model, target)
    kinds = [{w.name: _kind(w, target, model.shape) for w in model.weights} for target in targets]
    with ExitStack() as stack:
        writers = [_writer(model, target, kind) for target, kind in zip(targets, kinds, strict=True)]
        _check_space(writers)
        for writer in writers:  # promised before it begins, so that an interruption between the two leaves nothing either
            stack.callback(writer.discard)
            writer.open()
        pool = stack.enter_context(_pool())
        total, done = sum(writer.size for writer in writers), 0
        for weight in model.weights:
            wanted = [(kind[weight.name], target.importance.get(weight.name)) for kind, target in zip(kinds, targets, strict=True)]
            for pieces in _in_order(pool, weight, wanted):
                for writer, data in zip(writers, pieces, strict=True):
                    writer.append(data)
                    done += len(data)
                progress(done, total)
            for writer in writers:
                writer.end_tensor()
        for writer in writers:
            writer.commit()
        progress(total, total)


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a query or key weight from transformers' rotary layout (halves) to llama.cpp's (pairs).

    `weight` has the shape (heads × head size, n), or (heads × head size) for a bias.
    """
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def _check_importance(model: Model, target: Target) -> None:
    for weight in model.weights:
        columns = target.importance.get(weight.name)
        if columns is not None and columns.shape != weight.shape[-1:]:
            raise BadWeights(f"the importance matrix is of another model: {weight.name} has {weight.shape[-1]} columns, not {len(columns)}")


def _kind(weight: Weight, target: Target, shape: Shape) -> str:
    return tensor_type(target.kind, weight.name, weight.shape, shape, bool(target.importance))


def _writer(model: Model, target: Target, kinds: dict[str, str]) -> Writer:
    tensors = [(w.name, tuple(reversed(w.shape)), NUMBERS[kinds[w.name]]) for w in model.weights]
    return Writer(target.path, [*model.entries, entry("general.file_type", MODEL_TYPES[target.kind][0])], tensors)


def _check_space(writers: list[Writer]) -> None:
    for folder in {writer.path.absolute().parent for writer in writers}:
        needed = sum(writer.size for writer in writers if writer.path.absolute().parent == folder)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed / 1e9:.1f} GB are needed, but only {free / 1e9:.1f} GB are free", str(folder))


class _pool(ThreadPoolExecutor):
    """A pool that does not start what is still waiting when it is left."""

    def __init__(self) -> None:
        self.width = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        super().__init__(self.width)

    def __exit__(self, *error: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)


def _in_order(pool: _pool, weight: Weight, wanted: list[tuple[str, np.ndarray | None]]) -> Iterator[list[bytes]]:
    """A weight's pieces, one for each target, in order; as many are under way as there are processors, and one waits."""
    waiting: deque[Future[list[bytes]]] = deque()
    for start, stop in _cuts(weight):
        waiting.append(pool.submit(_piece, weight, start, stop, wanted))
        if len(waiting) > pool.width:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _cuts(weight: Weight) -> Iterator[tuple[int, int]]:
    """Where to cut a weight: between rows, and between heads where their rows are reordered."""
    step = max(1, _PIECE // prod(weight.shape[1:]))
    if weight.heads:
        size = weight.shape[0] // weight.heads
        step = max(size, step // size * size)
    for start in range(0, weight.shape[0], step):
        yield start, min(start + step, weight.shape[0])


def _piece(weight: Weight, start: int, stop: int, wanted: list[tuple[str, np.ndarray | None]]) -> list[bytes]:
    """Rows `start` to `stop` in every type that is wanted."""
    if weight.as_is and not weight.delta and all(kind == weight.kind for kind, _ in wanted):
        return [weight.as_is(start, stop)] * len(wanted)
    values = weight.read(start, stop)
    if weight.delta:
        values = (values + weight.delta.rows(start, stop)).astype(np.float32)
    if weight.heads:
        values = np.ascontiguousarray(permute(values, (stop - start) * weight.heads // weight.shape[0]))
    rounded = values
    if any(kind not in ("F32", "BF16") for kind, _ in wanted):
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise BadWeights(f"{weight.name} holds values that are no numbers, or too large for float16: the model is damaged")
    return [encode(values if kind in ("F32", "BF16") else rounded, kind, importance) for kind, importance in wanted]
