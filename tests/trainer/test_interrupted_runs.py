"""Whatever ends a run in the middle, what it had computed is kept, and the same command ends with the same bytes."""

import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from promptimal_trainer.checkpoint import BadCheckpoint
from promptimal_trainer.finetune import finetune as finetune_here
from promptimal_trainer.recipe import read_recipe
from promptimal_trainer.training import Diverged


def finish(process: "subprocess.Popen[str]") -> str:
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    return said


def stopped(process: "subprocess.Popen[str]", out: Path, number: int) -> str:
    """Let a run write a new checkpoint, send it a signal; what it said."""
    checkpoint = out / "checkpoint.pt"
    before = checkpoint.stat().st_ino if checkpoint.exists() else 0
    while not checkpoint.exists() or checkpoint.stat().st_ino == before:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert not (out / "card.json").exists(), "it was through before it could be stopped"
    return said


def test_a_run_that_was_stopped_in_every_way_ends_with_the_same_bytes(finetune, recipe, few_pairs, tmp_path):
    """Killed, on a disk without room, by Ctrl-C, by SIGTERM; then to its end, beside a run that nothing stopped."""
    long_run, run, whole = recipe(epochs=12, dropout=0.1), tmp_path / "run", tmp_path / "whole"
    undisturbed = finetune(long_run, whole)

    stopped(finetune(long_run, run), run, signal.SIGKILL)
    kept = (run / "checkpoint.pt").read_bytes()

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    process = finetune(long_run, run, preexec_fn=little_room)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "Traceback" not in said
    assert "checkpoint.pt cannot be written" in said and "the last good checkpoint is kept" in said
    assert [path.name for path in run.iterdir()] == ["checkpoint.pt"] and (run / "checkpoint.pt").read_bytes() == kept

    for number in (signal.SIGINT, signal.SIGTERM):
        process = finetune(long_run, run)
        said = stopped(process, run, number)
        assert process.returncode == 130 and "Traceback" not in said
        saved = said.split("saved after step ")[1].split()[0]
        assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == int(saved)

    assert f"going on from step {saved} of" in finish(finetune(long_run, run))
    finish(undisturbed)
    for name in ("adapter_model.safetensors", "asks.safetensors", "log.jsonl"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (run / "checkpoint.pt").exists()

    with pytest.raises(BadCheckpoint, match="another recipe or other data: give another --out"):
        finetune_here(read_recipe(str(recipe(epochs=1))), few_pairs, whole)


def test_a_loss_that_is_no_number_stops_with_a_sentence_and_keeps_the_last_checkpoint(few_pairs, recipe, tmp_path):
    """A learning rate of 1 in float16: the activations overflow after a few updates."""
    wild = recipe(epochs=40, batch=32, lr=1, clip=1000000.0, precision='"float16"')
    with pytest.raises(Diverged, match="no number any more; the last good checkpoint is kept"):
        finetune_here(read_recipe(str(wild)), few_pairs, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] > 0
    assert all(torch.isfinite(tensor).all() for tensor in state["weights"].values())
    with pytest.raises(BadCheckpoint, match="another recipe: give another --out"):
        finetune_here(read_recipe(str(recipe(epochs=1))), few_pairs, tmp_path / "run")
