"""Old PyTorch shards (pytorch_model.bin): where each weight lies in them, found without torch and without running what a pickle asks for.

Such a file is a zip archive with a pickle that describes the tensors and their bytes beside it, uncompressed. The pickle may name four
things, each answered by a function of ours that only notes shapes and places; any other name is refused before anything is called.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from promptimal_convert.checkpoint import DTYPES, BadCheckpoint, Stored, checked

_STORAGES = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16"}


class _Storage(NamedTuple):
    dtype: str
    key: str


class _Tensor(NamedTuple):
    storage: Any
    offset: Any
    shape: Any
    stride: Any


def index_bin(shard: Path) -> Iterator[Stored]:
    """The weights in a .bin shard. Raises BadCheckpoint where it is damaged or asks for anything but tensors."""
    try:
        with zipfile.ZipFile(shard) as archive:
            names = {name.partition("/")[2]: archive.getinfo(name) for name in archive.namelist()}
            if names["data.pkl"].file_size > 100_000_000:
                raise BadCheckpoint(f"{shard} is damaged: its description is too long")
            with archive.open(names["data.pkl"]) as stream:
                tensors = _Unpickler(stream).load()
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{shard}: {error}" if str(shard) not in str(error) else str(error)) from error
    except Exception as error:  # a damaged archive or pickle can raise nearly anything
        raise BadCheckpoint(f"{shard} is cut off or no PyTorch file that can be read: save it as safetensors") from error
    if not isinstance(tensors, dict):
        raise BadCheckpoint(f"{shard} holds no weights")
    for name, tensor in tensors.items():
        yield _place(shard, str(name), tensor, names)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, stride, *rest: _Tensor(storage, offset, shape, stride),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *rest: tensor,
        }
        if (module, name) not in allowed:
            raise BadCheckpoint(f"it asks for {module}.{name}, which is no tensor: it is not run; use weights in safetensors")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return _Storage(str(dtype), str(key))


def _place(shard: Path, name: str, tensor: Any, names: dict[str, zipfile.ZipInfo]) -> Stored:
    """Where a tensor's bytes lie in the archive: it must be whole, in order and uncompressed."""
    if not isinstance(tensor, _Tensor) or not isinstance(tensor.storage, _Storage) or not isinstance(tensor.shape, tuple):
        raise BadCheckpoint(f"{shard}: {name} is no tensor")
    if not all(type(size) is int for size in tensor.shape):
        raise BadCheckpoint(f"{shard}: {name} has an impossible shape, {tensor.shape}")
    in_order = tuple(prod(tensor.shape[i + 1 :]) for i in range(len(tensor.shape)))
    entry = names.get(f"data/{tensor.storage.key}")
    if entry is None or tensor.stride != in_order or type(tensor.offset) is not int or tensor.offset < 0:
        raise BadCheckpoint(f"{shard}: {name} is not stored whole and in order: save it as safetensors")
    if entry.compress_type != zipfile.ZIP_STORED or tensor.storage.dtype not in DTYPES:
        raise BadCheckpoint(f"{shard}: {name} is stored in a form that cannot be read: save it as safetensors")
    with shard.open("rb") as file:  # the local header's own lengths may differ from the directory's
        file.seek(entry.header_offset)
        local = file.read(30)
    if len(local) < 30:
        raise BadCheckpoint(f"{shard} is cut off in {name}: download it again")
    start = entry.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
    item = DTYPES[tensor.storage.dtype].itemsize
    first = start + tensor.offset * item
    count = prod(tensor.shape) * item
    if first + count > start + entry.file_size:
        raise BadCheckpoint(f"{shard} is damaged: {name} does not lie within it")
    return checked(shard, name, tensor.storage.dtype, tensor.shape, first, first + count)
