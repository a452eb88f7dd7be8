"""GGUF files are read with suspicion and written whole."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from promptimal_convert.gguf_file import BadGGUF, NewTensor, entry, read_header, read_tensor, write


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    values = np.arange(64, dtype=np.float32)
    texts = b"".join(struct.pack("<Q", 2) + b"ab" for _ in range(3))
    array = struct.pack("<Q", 5) + b"words" + struct.pack("<IIQ", 9, 8, 3) + texts
    write(
        path,
        [entry("general.architecture", "llama"), entry("n", 7), entry("x", 0.5), array],
        [NewTensor("a", (32, 2), 0, values.tobytes), NewTensor("b", (3,), 0, np.ones(3, np.float32).tobytes)],
    )
    return path


def test_what_is_written_is_read_back(small: Path) -> None:
    header = read_header(small)
    assert header.values["general.architecture"] == "llama"
    assert header.values["n"] == 7 and header.values["x"] == 0.5 and header.values["words"].count == 3
    assert np.frombuffer(read_tensor(header, "a"), np.float32).tolist() == list(range(64))
    assert read_tensor(header, "b") == np.ones(3, np.float32).tobytes()


def test_the_authors_own_reader_agrees(small: Path) -> None:
    theirs = GGUFReader(small)
    assert theirs.fields["general.architecture"].contents() == "llama"
    assert theirs.fields["words"].contents() == ["ab"] * 3
    assert [t.name for t in theirs.tensors] == ["a", "b"]
    assert theirs.tensors[0].data.tolist() == np.arange(64, dtype=np.float32).reshape(2, 32).tolist()


def test_nothing_is_left_half_written(tmp_path: Path) -> None:
    def broken() -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x.gguf", [], [NewTensor("a", (4,), 0, broken)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 3, 10, 23, 24, 60, 150, -1])
def test_a_cut_file_is_refused(small: Path, keep: int) -> None:
    data = small.read_bytes()
    small.write_bytes(data[:keep] if keep >= 0 else data[:-80])
    with pytest.raises(BadGGUF):
        read_header(small)


def test_a_mutated_header_never_raises_anything_else(small: Path) -> None:
    data = small.read_bytes()
    order = random.Random(1)
    for _ in range(3000):
        mutated = bytearray(data)
        for _ in range(order.choice((1, 1, 2, 8))):
            mutated[order.randrange(min(len(mutated), 300))] = order.choice((0, 1, 127, 128, 255, order.randrange(256)))
        small.write_bytes(mutated)
        try:
            read_header(small)
        except BadGGUF as error:
            assert str(small) in str(error)
