"""The mean of adapters is the mean of what they change, as near as their rank allows, and of how they rate asks."""

from pathlib import Path

import numpy as np
import pytest

from promptimal_convert.adapter import half
from promptimal_convert.average import average
from promptimal_convert.gguf_file import BadGGUF, array_entry, entry, float_bytes, read_header, texts, write
from promptimal_convert.merge import array

RANK, INNER, OUTER = 4, 48, 32
TARGET = "blk.0.attn_v.weight"


def adapter(path: Path, seed: int, *, rank: int = RANK, asks: tuple[str, ...] = ("Say why.", "Give an example.")) -> Path:
    draw = np.random.default_rng(seed)
    entries = [
        entry("general.architecture", "llama"),
        entry("adapter.type", "lora"),
        entry("adapter.lora.alpha", 8.0),
        array_entry("promptimal.asks", list(asks)),
        array_entry("promptimal.asks.weight", draw.normal(size=(len(asks), INNER)).astype("<f4").tobytes()),
        array_entry("promptimal.asks.bias", draw.normal(size=len(asks)).astype("<f4").tobytes()),
    ]
    right, left = draw.normal(size=(rank, INNER)), draw.normal(size=(OUTER, rank))
    write(path, entries, [half(f"{TARGET}.lora_a", right), half(f"{TARGET}.lora_b", left)])
    return path


def change(path: Path) -> np.ndarray:
    file = read_header(path)
    return array(file, f"{TARGET}.lora_b") @ array(file, f"{TARGET}.lora_a")


def test_the_mean_change_is_the_nearest_of_the_same_rank(tmp_path):
    one, other = adapter(tmp_path / "1.gguf", 1), adapter(tmp_path / "2.gguf", 2)
    average([one, other], tmp_path / "mean.gguf")
    u, values, v = np.linalg.svd((change(one) + change(other)) / 2)
    nearest = u[:, :RANK] * values[:RANK] @ v[:RANK]
    np.testing.assert_allclose(change(tmp_path / "mean.gguf"), nearest, atol=0.02)


def test_the_mean_of_an_adapter_with_itself_is_that_adapter(tmp_path):
    one = adapter(tmp_path / "1.gguf", 1)
    average([one, one], tmp_path / "mean.gguf")
    np.testing.assert_allclose(change(tmp_path / "mean.gguf"), change(one), atol=0.02)
    assert read_header(tmp_path / "mean.gguf").values["adapter.lora.alpha"] == 8.0


def test_asks_are_rated_by_the_mean_of_the_layers(tmp_path):
    files = [read_header(adapter(tmp_path / f"{n}.gguf", n)) for n in (1, 2)]
    average([file.path for file in files], tmp_path / "mean.gguf")
    mean = read_header(tmp_path / "mean.gguf")
    assert texts(mean, "promptimal.asks") == ["Say why.", "Give an example."]
    for key in ("promptimal.asks.weight", "promptimal.asks.bias"):
        first, second, found = (np.frombuffer(float_bytes(file, key), "<f4") for file in (*files, mean))
        np.testing.assert_allclose(found, (first + second) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("other", "reason"), [({"rank": 2}, "other bases or ranks"), ({"asks": ("Say why.", "Say when.")}, "rate other asks")]
)
def test_adapters_that_have_no_mean_are_refused(tmp_path, other, reason):
    one, two = adapter(tmp_path / "1.gguf", 1), adapter(tmp_path / "2.gguf", 2, **other)
    with pytest.raises(BadGGUF, match=reason):
        average([one, two], tmp_path / "mean.gguf")
    assert not (tmp_path / "mean.gguf").exists()
