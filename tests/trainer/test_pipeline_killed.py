"""A run that is killed, whenever that be, goes on and pays for nothing twice. Two hundred kills are in bench/pipeline.py."""

import os

import pytest
from counting_server import running
from killing import kill_over_and_over, outputs, write_recipe

from promptimal_trainer.pipeline import recipe, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked, for speed")


def test_a_run_killed_forty_times_loses_no_answer_and_asks_for_none_again(tmp_path):
    questions = 24
    with running(delay=0.02) as server:
        written = write_recipe(tmp_path, server.base, questions)
        account = kill_over_and_over(written, tmp_path / "killed", server, kills=40)
    assert account.while_working > 30, "the run was done before most of the kills"
    with running() as server:
        undisturbed = recipe.read(write_recipe(tmp_path, server.base, questions, concurrency=16))
        assert run.run(run.NAMES, undisturbed, tmp_path / "undisturbed") == 0
        calls = sum(server.asked.values())
    assert account.calls == calls + account.lost
    assert outputs(tmp_path / "killed") == outputs(tmp_path / "undisturbed")
