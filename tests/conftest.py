"""What tests share: the default model, prepared once, the installed commands, and a real server."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The default model's file, as a person's first use prepares it."""
    from promptimal import models

    model = models.default(lambda text: print(text, file=sys.stderr))
    assert model.adapter is None, "the cache directory cannot be written"
    return model.path


Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="session")
def promptimal(default_model: Path) -> Command:
    """Run the installed command: `promptimal("-n", "3", stdin=b"…")`."""

    def run(*arguments: str, stdin: bytes = b"", **environment: str) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            [BIN / "promptimal", *arguments],
            input=stdin,
            capture_output=True,
            timeout=120,
            env={**os.environ, **environment},
        )

    return run


@pytest.fixture(scope="module")
def llama_server() -> Iterator[str]:
    """The untuned base model behind a real server."""
    from llama_server import serve

    from promptimal.models import _base

    with serve(_base(), "--n_ctx", "1024") as address:
        yield address
