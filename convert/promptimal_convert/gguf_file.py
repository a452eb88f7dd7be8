"""Read the header of a GGUF file, checking every length in it before it is believed, and write GGUF files.

The header is read in milliseconds: arrays are measured, not parsed (a vocabulary has 49,152 entries and as many merges), and their
bytes can be copied into a new file as they are. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

MAGIC = b"GGUF"
ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_MAX_NAME = 64  # bytes, GGML_MAX_NAME

# Value types of the format: number → struct code of the scalar ones.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FLOAT32, _STRING, _ARRAY = 6, 8, 9

TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18), 23: ("IQ4_XS", 256, 136), 30: ("BF16", 1, 2),
}  # fmt: skip
"""Tensor types that a model of ours may have: number → name, values a block, bytes a block (ggml.h, ggml-common.h)."""


class BadGGUF(Exception):
    """A file that is no sound GGUF; the message says what is wrong with it."""


class Tensor(NamedTuple):
    """Where a tensor lies. `shape` is in the file's order, innermost first; `offset` counts bytes from the file's start."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    size: int


class NewTensor(NamedTuple):
    """A tensor to be written; `data` makes its bytes when their turn has come, so that only one is in memory."""

    name: str
    shape: tuple[int, ...]
    type: int
    data: Callable[[], bytes]


@dataclass(frozen=True)
class Array:
    """An array value that was measured, not parsed."""

    item_type: int
    count: int


@dataclass
class Header:
    """A file's header. `raw` holds each key's whole entry as bytes, so that it can be copied unread."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def need(self, key: str, kind: type) -> Any:
        """The value of a key that must be there. Raises BadGGUF."""
        value = self.values.get(key)
        if type(value) is not kind:
            raise BadGGUF(f"{self.path}: {key} is missing or of the wrong type")
        return value


def read_header(path: Path) -> Header:
    """Read and check a header: magic, version, lengths, types, shapes, and that each tensor lies within the file.

    Raises BadGGUF for anything that a loader would trip over, OSError where the file cannot be opened.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < 24:
            raise BadGGUF(f"{path} is no GGUF file: it is too short")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Parser(path, data).header()


def read_tensor(file: Header, name: str) -> bytes:
    """A tensor's bytes as they stand in the file."""
    tensor = file.tensors[name]
    with file.path.open("rb") as stream:
        stream.seek(tensor.offset)
        data = stream.read(tensor.size)
    if len(data) != tensor.size:
        raise BadGGUF(f"{file.path} is cut off in {name}")
    return data


def entry(key: str, value: str | int | float) -> bytes:
    """A key and its value as a header entry: a text, a uint32 or a float32."""
    name = key.encode()
    head = struct.pack("<Q", len(name)) + name
    if isinstance(value, str):
        text = value.encode()
        return head + struct.pack("<IQ", _STRING, len(text)) + text
    if isinstance(value, int):
        return head + struct.pack("<II", 4, value)
    return head + struct.pack("<If", 6, value)


def array_entry(key: str, values: list[str] | bytes) -> bytes:
    """A key and a list of texts, or a key and the bytes of little-endian float32 numbers, as a header entry."""
    name = key.encode()
    head = struct.pack("<Q", len(name)) + name + struct.pack("<I", _ARRAY)
    if isinstance(values, bytes):
        return head + struct.pack("<IQ", _FLOAT32, len(values) // 4) + values
    data = [value.encode() for value in values]
    return head + struct.pack("<IQ", _STRING, len(data)) + b"".join(struct.pack("<Q", len(text)) + text for text in data)


def texts(header: Header, key: str) -> list[str]:
    """The texts of an array value. Raises BadGGUF where the key is missing or holds something else."""
    data = _array_data(header, key, _STRING)
    found, position = [], 0
    while position < len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        position += 8 + length
        try:
            found.append(data[position - length : position].decode())
        except UnicodeDecodeError as error:
            raise BadGGUF(f"{header.path}: {key} holds a text that is not UTF-8") from error
    return found


def float_bytes(header: Header, key: str) -> bytes:
    """The bytes of a float32 array value. Raises BadGGUF where the key is missing or holds something else."""
    return _array_data(header, key, _FLOAT32)


def _array_data(header: Header, key: str, item_type: int) -> bytes:
    """The bytes of an array's items."""
    if header.need(key, Array).item_type != item_type:
        raise BadGGUF(f"{header.path}: {key} is a list of the wrong type")
    return header.raw[key][8 + len(key.encode()) + 4 + 12 :]


def write(path: Path, entries: list[bytes], tensors: list[NewTensor]) -> None:
    """Write a GGUF file: to a temporary file beside `path`, which then takes its name."""
    writer = Writer(path, entries, [(tensor.name, tensor.shape, tensor.type) for tensor in tensors])
    try:
        writer.open()
        for tensor in tensors:
            writer.append(tensor.data())
            writer.end_tensor()
        writer.commit()
    finally:
        writer.discard()


class Writer:
    """A GGUF file that is being written, piece by piece, under a temporary name; `commit` gives it its own.

    `tensors` says what will come: name, shape (innermost first), type. `discard`, in a `finally` around it all, leaves nothing behind.
    """

    def __init__(self, path: Path, entries: list[bytes], tensors: list[tuple[str, tuple[int, ...], int]]) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")
        self._file: Any = None
        self._left = [(name, tensor_size(shape, kind)) for name, shape, kind in reversed(tensors)]
        table, offset = [], 0
        for name, shape, kind in tensors:
            key = name.encode()
            dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
            table.append(struct.pack("<Q", len(key)) + key + dimensions + struct.pack("<IQ", kind, offset))
            offset = _aligned(offset + tensor_size(shape, kind))
        self._header = MAGIC + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + b"".join(table)
        self.size = _aligned(len(self._header)) + offset
        """Bytes of the whole file."""

    def open(self) -> None:
        """Begin the file."""
        self._file = self._temporary.open("wb")
        self._file.write(self._header)
        self._pad()

    def append(self, data: bytes) -> None:
        """Write the next bytes of the tensor whose turn it is."""
        self._file.write(data)

    def end_tensor(self) -> None:
        """The tensor is complete: the next one follows."""
        name, size = self._left.pop()
        if self._file.tell() - self._start != size:
            raise ValueError(f"{name}: {self._file.tell() - self._start} bytes do not fit its shape")
        self._pad()

    def commit(self) -> None:
        """The file is complete: give it its name."""
        if self._left:
            raise ValueError(f"{self._left[-1][0]} was not written")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)

    def discard(self) -> None:
        """Remove what was not committed."""
        if self._file:
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _pad(self) -> None:
        self._file.write(b"\0" * (_aligned(self._file.tell()) - self._file.tell()))
        self._start = self._file.tell()


def tensor_size(shape: tuple[int, ...], kind: int) -> int:
    """Bytes of a tensor of that shape and type."""
    _, values, size = TYPES[kind]
    return prod(shape) // values * size


def _aligned(position: int, alignment: int = ALIGNMENT) -> int:
    return -(-position // alignment) * alignment


class _Parser:
    """Walks a header; every count and length is checked against what is left of the file before it is used."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.position = path, data, 0

    def header(self) -> Header:
        if self.take(4) != MAGIC:
            raise BadGGUF(f"{self.path} is no GGUF file")
        version = self.scalar("I")
        if version not in (2, 3):
            raise BadGGUF(f"{self.path} is GGUF of version {version}; versions 2 and 3 can be read")
        tensor_count, entry_count = self.scalar("Q"), self.scalar("Q")
        header = Header(self.path)
        for _ in range(self.plausible(entry_count, 13)):
            start = self.position
            key = self.text(65535)
            if key in header.values:
                raise BadGGUF(f"{self.path}: {key} stands twice in its header")
            header.values[key] = self.value(key)
            header.raw[key] = self.data[start : self.position]
        infos = [self.tensor_info() for _ in range(self.plausible(tensor_count, 24))]
        alignment = header.values.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or not 8 <= alignment <= 65536 or alignment & (alignment - 1):
            raise BadGGUF(f"{self.path}: general.alignment is not a power of two")
        start = _aligned(self.position, alignment)
        for name, shape, kind, offset in infos:
            if name in header.tensors:
                raise BadGGUF(f"{self.path}: tensor {name} stands twice")
            size = tensor_size(shape, kind)
            if offset % alignment or start + offset + size > len(self.data):
                raise BadGGUF(f"{self.path} is cut off or damaged: tensor {name} does not lie within the file")
            header.tensors[name] = Tensor(name, shape, kind, start + offset, size)
        return header

    def tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.text(_MAX_NAME)
        dimensions = self.scalar("I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise BadGGUF(f"{self.path}: tensor {name} has {dimensions} dimensions")
        shape = tuple(self.scalar("Q") for _ in range(dimensions))
        kind = self.scalar("I")
        if kind not in TYPES:
            raise BadGGUF(f"{self.path}: tensor {name} is of type {kind}, which is not known here")
        # A shape with more values than the file has bits cannot be true, and would overflow a loader's arithmetic.
        if min(shape) < 1 or prod(shape) > len(self.data) * 8 or shape[0] % TYPES[kind][1]:
            raise BadGGUF(f"{self.path}: tensor {name} has an impossible shape")
        return name, shape, kind, self.scalar("Q")

    def value(self, key: str) -> Any:
        kind = self.scalar("I")
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise BadGGUF(f"{self.path}: {key} has a value of unknown type {kind}")
        item, count = self.scalar("I"), self.scalar("Q")
        if item == _STRING:
            unpack = struct.Struct("<Q").unpack_from
            data, position, end = self.data, self.position, len(self.data)
            for _ in range(self.plausible(count, 8)):
                if position + 8 > end:
                    raise BadGGUF(f"{self.path} is cut off in {key}")
                position += 8 + unpack(data, position)[0]
            self.position = position
            self.take(0)
        elif item in _SCALARS:
            size = struct.calcsize("<" + _SCALARS[item])
            self.take(self.plausible(count, size) * size)
        else:
            raise BadGGUF(f"{self.path}: {key} is an array of unknown type {item}")
        return Array(item, count)

    def take(self, count: int) -> bytes:
        if self.position + count > len(self.data):
            raise BadGGUF(f"{self.path} is cut off in its header")
        self.position += count
        return self.data[self.position - count : self.position]

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self, most: int | None = None) -> str:
        length = self.scalar("Q")
        if most is not None and length > most:
            raise BadGGUF(f"{self.path} is damaged: a name of {length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise BadGGUF(f"{self.path} is damaged: a text in its header is not UTF-8") from error

    def plausible(self, count: int, least: int) -> int:
        """A count of things of at least so many bytes each, which must fit into the rest of the file."""
        if count * least > len(self.data) - self.position:
            raise BadGGUF(f"{self.path} is damaged: its header promises more than the file holds")
        return count
