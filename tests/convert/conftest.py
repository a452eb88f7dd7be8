"""Small random models of every architecture, in folders as the hub has them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tiny


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each model's folder."""
    folder = tmp_path_factory.mktemp("models")
    return {name: tiny.build(name, folder) for name in tiny.MODELS}


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run the installed command: `run("inspect", path)`."""

    def call(*arguments: object, **more: object) -> "subprocess.CompletedProcess[str]":
        command = [str(Path(sys.executable).parent / "promptimal-convert"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)  # type: ignore[call-overload,no-any-return]

    return call
