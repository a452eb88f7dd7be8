"""What tests share: the default model, prepared once, the installed commands, and a real server."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
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


Serve = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def serve() -> Serve:
    """A model behind llama-cpp-python's own server, OpenAI-compatible: `with serve(model, "--n_ctx", "1024") as address:`."""

    @contextlib.contextmanager
    def started(model: Path, *options: str) -> Iterator[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--port", str(port), *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        address = f"http://127.0.0.1:{port}/v1"
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(address + "/models", timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, "the server did not start"
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait()

    return started


@pytest.fixture(scope="module")
def llama_server(serve: Serve) -> Iterator[str]:
    """The untuned base model behind a real server."""
    from promptimal.models import _base

    with serve(_base(), "--n_ctx", "1024") as address:
        yield address
