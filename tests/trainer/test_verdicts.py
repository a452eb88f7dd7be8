"""What readers preferred moves the asks' layer: up where rewrites with an ask won, down where they lost, further the more was judged."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from promptimal_trainer import verdicts

WON, LOST, LOST_ONCE, UNSEEN = "Give an example.", "Build a joke on it.", "Name the runner-up.", "Say why."


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    """Twenty rewrites that won, six that lost, one that lost with another ask, and one tie."""
    fates = [(WON, "first")] * 20 + [(LOST, "second")] * 6 + [(LOST_ONCE, "second"), (LOST_ONCE, "same")]
    pairs = [{"id": i, "prompt": f"prompt {i}", "first": f"prompt {i}. {ask}", "second": f"prompt {i}"} for i, (ask, _) in enumerate(fates)]
    key = [{"id": i, "kind": "fact", "first": "B", "same": False} for i in range(len(fates))] + [
        {"id": 99, "kind": "fact", "first": "A", "same": True}
    ]
    judged = [{"id": i, "better": better} for i, (_, better) in enumerate(fates)]
    for name, rows in (("sheet", pairs), ("key", key), ("verdicts", judged)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_an_ask_is_moved_by_how_rewrites_with_it_fared(sheet):
    moved = verdicts.shifts([sheet], [WON, LOST, LOST_ONCE, UNSEEN])
    assert moved[LOST] < moved[LOST_ONCE] < 0 < moved[WON]
    assert UNSEEN not in moved


def test_an_ask_that_the_prompt_has_already_is_not_judged(sheet):
    assert "prompt 3" not in verdicts.shifts([sheet], ["prompt 3", WON])


def test_the_layer_keeps_its_weights_and_gets_the_moved_biases(sheet, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "asks.txt").write_text(f"{UNSEEN}\n{LOST}\n")
    save_file({"weight": torch.ones(2, 3), "bias": torch.tensor([0.5, 0.5])}, run / "asks.safetensors")
    verdicts.apply({LOST: -1.25, WON: 1.0}, run)
    layer = load_file(run / "asks.safetensors")
    assert layer["bias"].tolist() == [0.5, -0.75]
    assert layer["weight"].tolist() == [[1.0] * 3] * 2
