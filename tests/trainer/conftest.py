"""A small random Llama that trains in seconds, recipes for it, and the installed command."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "convert"))

BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's architecture and kind of tokenizer, three layers, 512 words."""
    import tiny

    return tiny.build("smollm", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def few_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four of the project's pairs."""
    from promptimal_trainer import pairs

    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(pairs.DEFAULT.read_text().splitlines(keepends=True)[:24]))
    return path


Recipe = Callable[..., Path]


@pytest.fixture
def recipe(tmp_path: Path, tiny_llama: Path) -> Recipe:
    """Write a recipe for the small Llama, a few updates an epoch, with keys changed: `recipe(epochs=2)`."""
    from promptimal_trainer.recipe import RECIPES

    small = {"base": f'"{tiny_llama}"', "precision": '"float32"', "skip_layers": 1, "rank": 4, "batch": 4, "held_out": 0.3, "lr": 2e-3}

    def write(**changes: object) -> Path:
        text = (RECIPES / "smollm2-135m.toml").read_text()
        for key, value in {**small, **changes}.items():
            text, count = re.subn(rf"(?m)^{key} = \S+", f"{key} = {value}", text)
            assert count == 1, key
        path = tmp_path / f"{len(list(tmp_path.glob('*.toml')))}.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def finetune(few_pairs: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Start the command: `finetune(recipe, out, before=["-m", "torch.distributed.run", …])`."""

    def start(recipe: Path, out: Path, *more: str, **options: object) -> "subprocess.Popen[str]":
        command = [sys.executable, *more, "-m", "promptimal_trainer.command", "finetune"]
        command += ["--recipe", str(recipe), "--data", str(few_pairs), "--out", str(out)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]

    return start
