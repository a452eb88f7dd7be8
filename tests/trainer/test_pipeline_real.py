"""The whole pipeline with real models on this machine: a chat model behind a real server, a DeBERTa-v2 reward model, a sandbox for code."""

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path

from real_pipeline import RECIPE

from promptimal_trainer import pairs
from promptimal_trainer.pipeline import records, select
from promptimal_trainer.pipeline.recipe import Model, Recipe

SIZE = {"per_source": 0, "worst": 1.0, "versions": 1, "teacher_tokens": 60, "answerer_tokens": 16}


def test_questions_of_each_kind_go_all_the_way(tmp_path, llama_server, tiny_reward):
    _write_sources(tmp_path)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=tmp_path, reward=tiny_reward, base=llama_server, **SIZE))
    command = [Path(sys.executable).parent / "promptimal-train", "run", recipe, "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    answered = {r.question.kind: r for r in records.read(tmp_path / "out" / "answered.jsonl")}
    assert set(answered) == {"choice", "open", "code"} and all(r.answer.strip() for r in answered.values())
    assert answered["open"].score not in (None, 0.0, 1.0), "a reward"
    _check_pairs(tmp_path / "out")


def _check_pairs(out: Path) -> None:
    """So weak a teacher may improve nothing; what it did improve is in the pairs and finetune reads it."""
    selected = (out / "pairs.jsonl").read_text().splitlines()
    better = [
        r for r in records.read(out / "refined.jsonl")
        if r.original and any(a.score is not None and a.score > (r.original.score or 0.0) and not select.unfaithful(r, a.prompt) for c in r.chains for a in c)
    ]  # fmt: skip
    assert len(selected) <= len(better)
    if selected:
        assert len(pairs.read(out / "pairs.jsonl")) == len(selected)
    assert select.select(out / "refined.jsonl", out / "again.jsonl", Recipe(("x",), Model("t"), Model("a")))["pair"] == len(selected)


def _write_sources(folder: Path) -> None:
    (folder / "mmlu").mkdir()
    with (folder / "mmlu" / "botany_test.csv").open("w", newline="") as file:
        csv.writer(file).writerow(["Which of these is a tree?", "Moss", "Fern", "Oak", "Kelp", "C"])
    (folder / "alpaca.json").write_text(
        json.dumps([{"instruction": "Name two uses of rope.", "input": "", "output": "Climbing and sailing."}])
    )
    problem = {
        "task_id": "Own/0", "prompt": 'def double(x):\n    """Twice x."""\n', "entry_point": "double", "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(3) == 6\n",
    }  # fmt: skip
    with gzip.open(folder / "humaneval.jsonl.gz", "wt") as file:
        file.write(json.dumps(problem) + "\n")
