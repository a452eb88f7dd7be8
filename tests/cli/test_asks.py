"""The bank of asks travels in a model's header, with the layer that rates it."""

import numpy as np
import pytest

from promptimal import asks
from promptimal_convert.gguf_file import BadGGUF, array_entry, entry, read_header, write

SENTENCES = ["Give the answer first.", "Explain why – with “an example”."]


def header(path, sentences=SENTENCES, weights=2 * 4, biases=2):
    entries = [
        entry("general.architecture", "llama"),
        array_entry(asks.SENTENCES, sentences),
        array_entry(asks.WEIGHT, np.arange(weights, dtype="<f4").tobytes()),
        array_entry(asks.BIAS, np.zeros(biases, dtype="<f4").tobytes()),
    ]
    write(path / "m.gguf", entries, [])
    return read_header(path / "m.gguf")


def test_a_bank_comes_back_as_it_was_written(tmp_path):
    bank = asks.read_bank(header(tmp_path))
    assert bank.sentences == SENTENCES
    assert bank.weight.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_each_ask_is_rated_by_itself(tmp_path):
    bank = asks.read_bank(header(tmp_path))
    sure = bank.rate(np.array([-1, 0, 0, 1], dtype="f4"))
    assert sure == pytest.approx([1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-3))])


@pytest.mark.parametrize("change", [{"biases": 3}, {"weights": 7}, {"sentences": []}, {"sentences": ["One."], "biases": 2}])
def test_parts_that_do_not_fit_each_other_are_refused(tmp_path, change):
    with pytest.raises(BadGGUF, match="do not fit"):
        asks.read_bank(header(tmp_path, **change))


def test_a_model_without_a_bank_has_none(tmp_path):
    write(tmp_path / "m.gguf", [entry("general.architecture", "llama")], [])
    with pytest.raises(BadGGUF, match=r"promptimal\.asks"):
        asks.read_bank(read_header(tmp_path / "m.gguf"))
