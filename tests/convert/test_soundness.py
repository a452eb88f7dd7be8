"""A damaged model file is a sentence and exit code 1, never a crash."""

import subprocess
import sys
from pathlib import Path

import pytest

from promptimal_convert.gguf_file import BadGGUF, read_header
from promptimal_convert.soundness import check_model

BIN = Path(sys.executable).parent


def test_the_default_model_is_sound(default_model):
    check_model(read_header(default_model))


@pytest.mark.parametrize("seed", range(12))
def test_a_mutated_model_never_ends_in_a_crash(default_model, tmp_path, seed):
    """`bench/damaged_models.py` does this a thousand times."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[2] / "bench/damaged_models.py", "1", str(seed)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_adapter_is_told_from_a_model():
    from promptimal import models

    with pytest.raises(BadGGUF, match="merge it into its base"):
        check_model(read_header(models.ADAPTER))


def test_a_lying_header_is_refused(default_model, tmp_path):
    data = bytearray(default_model.read_bytes())
    key = b"llama.attention.head_count"
    at = data.index(key) + len(key) + 4
    for value in (0, 7, 255):
        data[at] = value
        path = tmp_path / "lying.gguf"
        path.write_bytes(data)
        with pytest.raises(BadGGUF, match=r"heads|cannot be true"):
            check_model(read_header(path))
