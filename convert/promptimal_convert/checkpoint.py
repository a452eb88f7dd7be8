"""A model as it stands on the hub: a folder with config.json and weights in safetensors or old .bin shards, or its name there.

Only the headers are read; rows of a weight come from the file when they are asked for, so a model of any size costs no memory. Every
length is checked against the file before it is believed. No pickle is executed, and only a name is looked for on the network.
"""

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
"""Types that weights may be stored in → what NumPy reads them as; bfloat16 has no type there, and is widened by hand."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class BadCheckpoint(Exception):
    """A model folder that cannot be converted; the message says why and what to do."""


@dataclass(frozen=True)
class Stored:
    """A weight in a file: `shape` outermost first, `offset` in bytes from the file's start."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` (a vector's entries) as float32."""
        kind, width = DTYPES[self.dtype], prod(self.shape[1:])
        with self.path.open("rb") as file:
            file.seek(self.offset + start * width * kind.itemsize)
            raw = np.fromfile(file, kind, (stop - start) * width)
        if raw.size != (stop - start) * width:
            raise BadCheckpoint(f"{self.path} is cut off in {self.name}: download it again")
        wide = (raw.astype(np.uint32) << 16).view(np.float32) if self.dtype == "BF16" else raw.astype(np.float32)
        rows: np.ndarray = wide.reshape(stop - start, *self.shape[1:])
        return rows


@dataclass(frozen=True)
class Checkpoint:
    """A model folder: its configuration and its weights by name. `name` is what to call the model."""

    path: Path
    name: str
    config: dict[str, Any]
    weights: dict[str, Stored]


def open_checkpoint(base: str) -> Checkpoint:
    """Open the folder `base`, or the model of that name on the hub. Raises BadCheckpoint, OSError."""
    path = Path(base).expanduser()
    name = path.resolve().name
    if not path.is_dir():
        path, name = _from_hub(base), base.rpartition("/")[2]
    config = read_json(path / "config.json")
    if config.get("quantization_config"):
        raise BadCheckpoint(f"{path}: its weights are quantized already: convert the model that it was made from")
    weights: dict[str, Stored] = {}
    for shard, promised in _shards(path):
        stored = {weight.name: weight for weight in index(shard)}
        if missing := sorted(promised - stored.keys()):
            raise BadCheckpoint(f"{shard}: {missing[0]} is missing, which the index says it holds: download it again")
        weights.update(stored)
    return Checkpoint(path, name, config, weights)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises BadCheckpoint."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadCheckpoint(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path} is no sound JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadCheckpoint(f"{path} is not what it should be: no JSON object")
    return data


def index(shard: Path) -> Iterator[Stored]:
    """The weights in a shard. Raises BadCheckpoint where it is damaged."""
    if shard.suffix == ".bin":
        from promptimal_convert.torch_bin import index_bin

        yield from index_bin(shard)
    else:
        yield from _index_safetensors(shard)


def checked(shard: Path, name: str, dtype: str, shape: Any, offset: int, end: int) -> Stored:
    """A weight whose place in the file holds what its shape says. Raises BadCheckpoint."""
    if dtype not in DTYPES:
        raise BadCheckpoint(f"{shard}: {name} is stored as {dtype}: only float32, float16 and bfloat16 can be converted")
    if not isinstance(shape, (list, tuple)) or not all(type(size) is int and size > 0 for size in shape):
        raise BadCheckpoint(f"{shard}: {name} has an impossible shape, {shape}")
    if prod(shape) * DTYPES[dtype].itemsize != end - offset:
        raise BadCheckpoint(f"{shard}: {name} has the shape {tuple(shape)}, which does not fit its {end - offset} bytes")
    return Stored(shard, name, dtype, tuple(shape), offset)


def _from_hub(name: str) -> Path:
    """The folder of a model that was downloaded before, or else is now: what converting needs, safetensors if there are any."""
    if not _HUB_NAME.fullmatch(name):
        raise BadCheckpoint(f"no model at {name}: give a folder with config.json, a GGUF file, or a name such as org/model")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise BadCheckpoint(f"{name} is no folder; to take it from the hub: pip install huggingface_hub") from None

    def fetch(weights: str, **more: Any) -> Path:
        return Path(snapshot_download(name, allow_patterns=["*.json", "tokenizer.model", weights], ignore_patterns=["*/*"], **more))

    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            return fetch("*.safetensors", local_files_only=True)
        print(f"{name} is not in the local cache: downloading it", file=sys.stderr)
        folder = fetch("*.safetensors")
        return folder if any(folder.glob("*.safetensors")) else fetch("pytorch_model*.bin")
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        why = str(error).strip().partition("\n")[0]
        raise BadCheckpoint(f"cannot get {name} from the hub: {why}") from error


def _shards(path: Path) -> list[tuple[Path, set[str]]]:
    """The files that hold the weights, each with the names that an index promises for it."""
    for index_name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if not (path / index_name).is_file() or (index_name[0] == "p" and (path / "model.safetensors").is_file()):
            continue
        places = read_json(path / index_name).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(v, str) and Path(v).name == v for v in places.values()):
            raise BadCheckpoint(f"{path / index_name} has no sound weight_map")
        shards = {file: {name for name, place in places.items() if place == file} for file in sorted(set(places.values()))}
        if lost := [file for file in shards if not (path / file).is_file()]:
            raise BadCheckpoint(f"{path / lost[0]} is missing, {len(lost)} of {len(shards)} shards: download the model again")
        return [(path / file, names) for file, names in shards.items()]
    for file in ("model.safetensors", "pytorch_model.bin"):
        if (path / file).is_file():
            return [(path / file, set())]
    raise BadCheckpoint(f"{path} holds no weights: neither model.safetensors nor pytorch_model.bin, nor an index of their shards")


def _index_safetensors(shard: Path) -> Iterator[Stored]:
    # Format: the header's length in 8 bytes, the header in JSON, the data. Offsets count from the data's start.
    size = shard.stat().st_size
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, 100_000_000):
            raise BadCheckpoint(f"{shard} is cut off or no safetensors file: download it again")
        try:
            header = json.loads(file.read(length))
            entries = [(name, e["dtype"], e["shape"], *e["data_offsets"]) for name, e in header.items() if name != "__metadata__"]
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise BadCheckpoint(f"{shard} is damaged: its header cannot be read") from error
    for name, dtype, shape, start, end in entries:
        if type(start) is not int or type(end) is not int or not 0 <= start <= end:
            raise BadCheckpoint(f"{shard} is damaged: {name} has no place in it")
        if 8 + length + end > size:
            raise BadCheckpoint(f"{shard} is cut off in {name}: download it again")
        yield checked(shard, name, dtype, shape, 8 + length + start, 8 + length + end)
