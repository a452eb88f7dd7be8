"""Started by torchrun or accelerate, a run shares its batches and its weights out among processes, and learns what one process learns."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
ACCELERATE = ("-m", "accelerate.commands.launch", "--use_fsdp", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")  # fmt: skip


def log(out: Path) -> list[float]:
    """Each update's loss and each epoch's held-out loss."""
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [record.get("loss") or record["held_out"]["loss"] for record in records]


def test_two_processes_learn_what_one_does_and_go_on_from_a_checkpoint_as_well(finetune, recipe, tmp_path):
    """The same losses to 2e-4: sums are taken in another order, and a log has four places. Stopped once, gone on with, then also by one process alone."""
    settings = recipe(epochs=5, accumulate=2, gradient_checkpointing="true")
    alone, both = tmp_path / "alone", tmp_path / "both"
    one = finetune(settings, alone)
    two = finetune(settings, both, *TORCHRUN, start_new_session=True)
    while not (both / "checkpoint.pt").exists():
        assert two.poll() is None, two.communicate()[1]
        time.sleep(0.01)
    os.killpg(two.pid, signal.SIGINT)  # Ctrl-C on a terminal reaches every process
    said = two.communicate(timeout=60)[1]
    assert said.count("saved after step") == 1 and not (both / "card.json").exists()

    two = finetune(settings, both, *ACCELERATE)
    said = two.communicate(timeout=120)[1]
    assert two.returncode == 0, said
    assert said.count("going on from step") == said.count("adapter in") == 1, "only the first process speaks"
    assert one.communicate(timeout=120) and one.returncode == 0
    assert len(log(alone)) == 5 * 2 + 5
    assert log(both) == pytest.approx(log(alone), abs=2e-4)
    assert json.loads((both / "card.json").read_text())["processes"] == 2
    assert not (both / "checkpoint.pt").exists()
