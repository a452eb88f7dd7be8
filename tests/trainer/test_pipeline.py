"""The pipeline against a real server on loopback that fails as real ones do: what it writes, what it pays for, and how it ends."""

import csv
import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import counting_server
import pytest
from counting_server import FAULTS, CountingServer, completion, running
from killing import keys, outputs, write_recipe

from promptimal_trainer import command, pairs
from promptimal_trainer.pipeline import calls, estimate, instructions, recipe, records, run, select, stage, work
from promptimal_trainer.pipeline.records import Attempt, Record
from promptimal_trainer.pipeline.store import Store
from promptimal_trainer.sources import Question
from promptimal_trainer.whole_file import whole

SECRET = "sk-very-secret"
CODE = {
    "task_id": "HumanEval/0", "prompt": 'def double(x):\n    """Twice x."""\n', "entry_point": "double", "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[CountingServer]:
    with running() as started:
        yield started


def train(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).parent / "promptimal-train", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [record for _, record in pairs.read_lines(path)]


def all_stages(tmp_path: Path, server: CountingServer, name: str = "out", **settings: Any) -> Path:
    """A run of everything in this process; its directory."""
    settings = {"concurrency": 32, **settings}
    values = replace(recipe.read(write_recipe(tmp_path, server.base, 24)), **settings)
    assert run.run(run.NAMES, values, tmp_path / name) == 0
    return tmp_path / name


def test_every_stage_writes_lines_that_a_person_can_open_and_finetune_accepts_the_pairs(tmp_path, server):
    out = all_stages(tmp_path, server)
    answered, hard, refined = (lines(out / f"{name}.jsonl") for name in ("answered", "hard", "refined"))
    assert len(answered) == 24 and len(hard) == 12
    assert [r["question"]["id"] for r in hard] == [r["question"]["id"] for r in answered if r in hard]
    assert max(r["score"] for r in hard) <= min(r["score"] for r in answered if r not in hard)
    assert all(len(record["chains"]) == 2 and all(len(chain) == 4 for chain in record["chains"]) for record in refined)
    found = pairs.read(out / "pairs.jsonl")
    assert found and all(pair.asks is None for pair in found)
    by_origin = {record["question"]["id"]: record for record in refined}
    for pair in found:
        name, _, chain = (pair.origin or "").partition("#")
        best = max(by_origin[name]["chains"][int(chain) - 1], key=lambda attempt: attempt["score"])
        assert (pair.improved, pair.score) == (best["prompt"], best["score"]) and pair.score > by_origin[name]["original"]["score"]


def test_the_same_input_and_store_give_the_same_bytes_and_nothing_is_asked(tmp_path, server):
    out = all_stages(tmp_path, server)
    before, asked = outputs(out), sum(server.asked.values())
    assert all_stages(tmp_path, server, concurrency=3) == out
    assert outputs(out) == before and sum(server.asked.values()) == asked == len(server.asked)


def test_no_more_calls_are_under_way_than_allowed(tmp_path):
    with running(delay=0.02) as server:
        all_stages(tmp_path, server, concurrency=5)
        assert server.most_at_once == 5


def test_faults_of_the_server_change_nothing_but_the_time(tmp_path, server, monkeypatch):
    monkeypatch.setattr(calls, "LONGEST_WAIT", 0.1)
    expected = outputs(all_stages(tmp_path, server, "calm"))
    with running(faults=FAULTS) as faulty:
        values = recipe.read(write_recipe(tmp_path, faulty.base, 24))
        hurried = {role: replace(getattr(values, role), timeout=1.0) for role in recipe.ROLES}
        out = all_stages(tmp_path, faulty, "stormy", **hurried)
        assert set(FAULTS) <= set(faulty.faulted), "each fault has occurred"
        assert set(faulty.answered) == set(server.answered) and max(faulty.answered.values()) == 1
    assert outputs(out) == expected


def test_a_busy_server_is_left_alone_as_long_as_it_asks():
    assert calls.seconds("3") == 3 and calls.seconds(None) is None and calls.seconds("soon") is None
    assert calls.seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_a_request_that_fails_for_good_is_named_and_only_it_is_tried_again(tmp_path):
    with running(refuse="by way of 7 ") as server:
        written = write_recipe(tmp_path, server.base, 12)
        done = train("mine", written, "--out", tmp_path / "out")
        assert done.returncode == 1 and "refused for what it says" in done.stderr and "Traceback" not in done.stderr
        (failed,) = lines(tmp_path / "out" / "answered.failed.jsonl")
        assert failed["id"] in done.stderr and len(lines(tmp_path / "out" / "answered.jsonl")) == 11
        server.refuse, server.asked = "", Counter()
        done = train("mine", written, "--out", tmp_path / "out")
        assert done.returncode == 0 and len(lines(tmp_path / "out" / "answered.jsonl")) == 12
        assert all("by way of 7 " in str(server.bodies[key]) for key in server.asked if server.bodies[key]["model"] == "answerer")
        assert not (tmp_path / "out" / "answered.failed.jsonl").exists()


def test_refused_requests_however_many_keep_no_run_from_its_end(tmp_path):
    with running(refuse="by way of 1") as server:
        written = write_recipe(tmp_path, server.base, 24)
        for _ in range(2):
            done = train("run", written, "--out", tmp_path / "out")
            assert done.returncode == 1 and "failed: 11," in done.stderr, done.stderr
            assert len(lines(tmp_path / "out" / "answered.jsonl")) == 13 and (tmp_path / "out" / "pairs.jsonl").exists()


def test_the_budget_is_asked_before_each_try(tmp_path, server, monkeypatch):
    monkeypatch.setattr(calls, "LONGEST_WAIT", 0.01)
    unreadable = {"choices": [{"message": {"content": " "}}], "usage": {"prompt_tokens": 20, "completion_tokens": 100}}
    monkeypatch.setattr(counting_server, "completion", lambda _: dict(unreadable))
    values = limited(recipe.read(write_recipe(tmp_path, server.base, 1)), max_tokens=100)
    with pytest.raises(calls.Stop, match="the budget does not allow another call"):
        run.run(["mine"], replace(values, budget_tokens=300), tmp_path / "out")
    assert sum(server.asked.values()) == 2
    assert spent_tokens(tmp_path / "out") == 240


def limited(values: recipe.Recipe, max_tokens: int) -> recipe.Recipe:
    """The recipe with a limit to each model's answers."""
    return replace(values, **{role: replace(getattr(values, role), sampling={"max_tokens": max_tokens}) for role in recipe.ROLES})


def spent_tokens(out: Path) -> int:
    return sum(s.tokens_in + s.tokens_out for s in run.open_store(out, write=False).spent())


def test_a_budget_is_kept_and_what_was_paid_is_kept_too(tmp_path, server):
    whole = all_stages(tmp_path, server, "whole")
    written = write_recipe(tmp_path, server.base, 24)
    plain = written.read_text().replace("base_url", "sampling = { max_tokens = 60 }\nbase_url")
    written.write_text("budget_tokens = 6000\n" + plain)
    done = train("run", written, "--out", tmp_path / "out")
    assert done.returncode == 1 and "raise budget_tokens" in done.stderr and "Traceback" not in done.stderr
    assert 3000 < spent_tokens(tmp_path / "out") <= 6000
    paid = keys(tmp_path / "out")
    server.asked = Counter()
    written.write_text(plain)
    assert train("run", written, "--out", tmp_path / "out").returncode == 0
    assert not paid & set(server.asked)
    assert outputs(tmp_path / "out") == outputs(whole)


def test_a_dry_run_says_what_it_takes_and_asks_nothing(tmp_path, server):
    written = write_recipe(tmp_path, server.base, 24)
    done = train("run", written, "--out", tmp_path / "out", "--dry-run", "--versions", 3)
    assert done.returncode == 0 and not server.asked
    assert "| mine | answerer | 24 | 0 | 24 |" in done.stdout and "| propose | teacher | 72 | 0 | 72 |" in done.stdout
    estimated = int(done.stdout.splitlines()[-1].split("|")[3].replace(",", ""))
    assert sum(len(server.asked) for _ in [all_stages(tmp_path, server, versions=3)]) <= estimated


def test_an_estimate_takes_answers_to_be_as_long_as_they_may_be(tmp_path, server):
    values = limited(recipe.read(write_recipe(tmp_path, server.base, 24)), max_tokens=2000)
    before = estimate.estimate(values, tmp_path / "out", None)
    assert all(line.tokens >= 2000 * line.calls for line in before)
    assert run.run(run.NAMES, values, tmp_path / "out") == 0
    assert spent_tokens(tmp_path / "out") <= sum(line.tokens for line in before)
    after = left(values, tmp_path / "out")
    assert len(after) == len(before) and not any(after.values())


def left(values: recipe.Recipe, out: Path) -> dict[str, int]:
    """Calls left by stage and role, by the estimate."""
    store = run.open_store(out, write=False)
    return {f"{line.stage} {line.role}": line.left for line in estimate.estimate(values, out, store)}


def test_an_answer_counts_as_stored_only_for_the_request_that_it_answers(tmp_path, server):
    out = all_stages(tmp_path, server)
    values = recipe.read(write_recipe(tmp_path, server.base, 24))
    asked = set(server.asked)
    for change in ({"samples": 3}, {"versions": 3}, {"worst": 0.75}, {"answerer": replace(values.answerer, sampling={"temperature": 0.1})}):
        changed = replace(values, **change)
        told = left(changed, out)
        shutil.copytree(out, tmp_path / "copy")
        assert run.run(run.NAMES, changed, tmp_path / "copy") == 0
        shutil.rmtree(tmp_path / "copy")
        made, asked = set(server.asked) - asked, set(server.asked)
        assert 0 < len(made) <= sum(told.values()), change
    assert told["mine answerer"] == 24 and told["propose teacher"] == 48 and told["score answerer"] == 24 * 3 * 2


def test_a_model_in_two_roles_has_answered_only_in_one(tmp_path):
    with running(refuse="Rate how well") as server:
        values = recipe.read(write_recipe(tmp_path, server.base, 24))
        values = replace(values, answerer=values.judge)
        assert run.run(["mine"], values, tmp_path / "out") == 24
        assert len(keys(tmp_path / "out")) == 24
    told = left(values, tmp_path / "out")
    assert told["mine answerer"] == 0 and told["mine judge"] == 24


def test_a_full_disk_is_told_in_a_sentence_and_what_was_stored_goes_on(tmp_path, server, monkeypatch, capsys):
    def small(out: Path) -> Store:
        store = Store(out / "store.sqlite")
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count = {pages + 1}")
        return store

    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    written, out = write_recipe(tmp_path, server.base, 100), tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(sys, "argv", ["promptimal-train", "mine", str(written), "--out", str(out)])
    with monkeypatch.context() as disk:
        disk.setattr(run, "open_store", small)
        disk.setattr(stage.Meter, "log", no_room)
        assert command.main() == 1
    told = capsys.readouterr().err
    assert "store.sqlite: cannot be written: database or disk is full; make room" in told and told.count("promptimal-train:") == 1
    stored, paid = keys(out), set(server.asked)
    assert stored < paid and len(paid - stored) <= 8 and not (out / "answered.jsonl").exists()
    server.asked = Counter()
    assert command.main() == 0
    assert not stored & set(server.asked) and len(lines(out / "answered.jsonl")) == 100


def test_a_sandbox_that_does_not_work_stops_the_run(tmp_path, server, monkeypatch):
    def broken() -> None:
        raise calls.Stop("the sandbox for code does not work here")

    monkeypatch.setattr(work, "_try_sandbox", broken)
    with gzip.open(tmp_path / "h.jsonl.gz", "wt") as file:
        file.write(json.dumps(CODE) + "\n")
    values = replace(recipe.read(write_recipe(tmp_path, server.base, 1)), sources=(f"humaneval:{tmp_path / 'h.jsonl.gz'}",))
    with pytest.raises(calls.Stop, match="sandbox"):
        run.run(["mine"], values, tmp_path / "out")
    assert not (tmp_path / "out" / "answered.jsonl").exists()


def test_the_key_goes_to_the_server_and_nowhere_else(tmp_path, server):
    written = write_recipe(tmp_path, server.base, 4)
    done = train("mine", written, "--out", tmp_path / "out", OPENAI_API_KEY=SECRET)
    assert done.returncode == 0, done.stderr
    assert all(headers["authorization"] == f"bearer {SECRET}" for headers in server.headers)
    assert SECRET not in done.stdout + done.stderr
    assert all(SECRET.encode() not in path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_a_refused_key_stops_the_run_at_once(tmp_path, server):
    with running(faults=("401",)) as strict:
        done = train("mine", write_recipe(tmp_path, strict.base, 40), "--out", tmp_path / "out")
        assert done.returncode == 1 and "401 - wrong key" in done.stderr and done.stderr.count("promptimal-train:") == 1
        assert sum(strict.asked.values()) < 40


def test_a_server_that_is_not_there_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "LONGEST_WAIT", 0.01)
    values = recipe.read(write_recipe(tmp_path, "http://127.0.0.1:9/v1", 40))
    with pytest.raises(calls.Stop, match=r"127\.0\.0\.1:9.*is the server running\?"):
        run.run(["mine"], values, tmp_path / "out")


def test_an_interrupted_run_keeps_the_calls_under_way(tmp_path):
    with running(delay=0.5) as slow:
        command = [
            Path(sys.executable).parent / "promptimal-train",
            "mine",
            write_recipe(tmp_path, slow.base, 40),
            "--out",
            tmp_path / "out",
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while len(slow.asked) < 6:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 130 and "the same command goes on" in told and "Traceback" not in told
        assert keys(tmp_path / "out") == set(slow.asked)


def test_two_runs_do_not_share_a_store_at_the_same_time(tmp_path, server):
    store = run.open_store(tmp_path / "out")
    done = train("mine", write_recipe(tmp_path, server.base, 4), "--out", tmp_path / "out")
    store.close()
    assert done.returncode == 1 and "another run is using it" in done.stderr and done.stderr.count("\n") == 1


def test_batch_files_take_the_place_of_calls(tmp_path, server):
    live = all_stages(tmp_path, server, "live")
    asked, out = sum(server.asked.values()), tmp_path / "out"
    written = write_recipe(tmp_path, server.base, 24)
    rounds = {stage: _by_batches(stage, written, out, tmp_path) for stage in ("mine", "propose", "score", "refine")}
    assert rounds.pop("refine") in range(6, 10)  # three a round: teacher, answerer, and judge, who has mostly judged the same answer before
    assert rounds == {"mine": 2, "propose": 1, "score": 2}  # a judge's request needs the answer
    assert train("select", written, "--out", out).returncode == 0
    assert outputs(out) == outputs(live) and sum(server.asked.values()) == asked


def _by_batches(stage: str, written: Path, out: Path, folder: Path) -> int:
    """Run a stage by batch files, answered as the Batch API does; how many times there were requests."""
    results: list[object] = []
    for number in range(12):
        done = train(stage, written, "--out", out, "--batch-out", folder / "batch", *results)
        assert done.returncode == 0, done.stderr
        if not done.stdout:
            return number
        path = folder / "results.jsonl"
        with path.open("w") as file:
            for name in done.stdout.splitlines():
                requests = lines(Path(name))
                assert all(r["method"] == "POST" and r["url"] == "/v1/chat/completions" for r in requests)
                assert len({r["body"]["model"] for r in requests}) == 1
                for request in reversed(requests):
                    response = {"status_code": 200, "request_id": "req_1", "body": completion(request["body"])}
                    file.write(
                        json.dumps({"id": "batch_req_1", "custom_id": request["custom_id"], "response": response, "error": None}) + "\n"
                    )
        results = ["--batch-in", path]
    raise AssertionError("no end of batches")


def test_faulty_results_of_a_batch_are_named_and_asked_for_again(tmp_path, server):
    written, out = write_recipe(tmp_path, server.base, 5), tmp_path / "out"
    requests = lines(Path(train("mine", written, "--out", out, "--batch-out", tmp_path / "b").stdout.strip()))
    good = {"status_code": 200, "body": completion(requests[0]["body"])}
    wrong = {"status_code": 200, "body": {**completion(requests[1]["body"]), "model": "else"}}
    rows = [
        {"custom_id": requests[0]["custom_id"], "response": good},
        {"custom_id": requests[1]["custom_id"], "response": wrong},
        {"custom_id": requests[2]["custom_id"], "response": None, "error": {"code": "batch_expired", "message": "too late"}},
        {"custom_id": requests[3]["custom_id"], "response": {"status_code": 429, "body": {"error": {"message": "limit"}}}},
        {"custom_id": "somebody-elses", "response": good},
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = train("mine", written, "--out", out, "--batch-out", tmp_path / "b", "--batch-in", tmp_path / "r.jsonl")
    assert done.returncode == 1 and "stored 1, not waited for 1, faulty 3" in done.stderr
    assert "r.jsonl:2: a reply of the model else" in done.stderr and "r.jsonl:3: " in done.stderr and "too late" in done.stderr
    again = [r["custom_id"] for name in done.stdout.split() if "answerer" in name for r in lines(Path(name))]
    assert sorted(again) == sorted(r["custom_id"] for r in requests[1:])


def test_the_store_can_be_inspected_and_pruned(tmp_path, server):
    out = all_stages(tmp_path, server)
    written, before, full = write_recipe(tmp_path, server.base, 24), outputs(out), keys(out)
    done = train("store", "--out", out, "--dump")
    assert {json.loads(line)["key"] for line in done.stdout.splitlines()} == full
    assert "deleted 0 answers" in train("store", "--out", out, "--prune-unused", written).stderr
    written.write_text(written.read_text().replace("concurrency", "rounds = 2\nconcurrency"))
    done = train("store", "--out", out, "--prune-unused", written)
    kept = keys(out)
    assert 0 < len(kept) < len(full) and "| refine | chat | teacher |" in done.stdout
    server.asked = Counter()
    all_stages(tmp_path, server)
    assert outputs(out) == before and set(server.asked) == full - kept
    assert train("store", "--out", out, "--prune-days", 0).returncode == 0 and not keys(out)
    spent = run.open_store(out, write=False).spent()
    assert sum(entry.calls for entry in spent) == len(full) + len(full - kept), "what was spent is remembered"


def test_status_tells_what_is_written_spent_and_left(tmp_path, server):
    written, out = write_recipe(tmp_path, server.base, 24), tmp_path / "out"
    assert train("mine", written, "--out", out).returncode == 0
    done = train("status", written, "--out", out)
    assert "hard.jsonl: 12 lines" in done.stdout and "proposals.jsonl: not written yet" in done.stdout
    assert "| mine | answerer | 24 | 24 | 0 |" in done.stdout and "| propose | teacher | 24 | 0 | 24 |" in done.stdout
    (logged,) = lines(out / "log.jsonl")
    assert logged["stage"] == "mine" and logged["written"] == 24 and logged["calls"] == len(server.asked) and logged["tokens_in"] > 0


def test_choices_are_scored_by_accuracy_and_code_by_its_tests(tmp_path, server):
    folder = tmp_path / "mmlu"
    folder.mkdir()
    with (folder / "astronomy_test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([f"Which star is number {n}?", "Vega", "Rigel", "Sirius", "Deneb", "ABCD"[n % 4]] for n in range(6))
    with gzip.open(tmp_path / "h.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({**CODE, "task_id": f"HumanEval/{n}", "prompt": CODE["prompt"] + "#\n" * n}) + "\n" for n in range(3))
    values = recipe.read(write_recipe(tmp_path, server.base, 1))
    values = replace(values, sources=(f"mmlu:{folder}", f"humaneval:{tmp_path / 'h.jsonl.gz'}"), judge=None, samples=6)
    assert run.run(run.NAMES, values, tmp_path / "out") == 0
    answered, refined = (list(records.read(tmp_path / "out" / f"{name}.jsonl")) for name in ("answered", "refined"))
    for record in answered:
        right = (
            f"The answer is {record.question.answer}."
            if record.question.kind == "choice"
            else "```python\ndef double(x):\n    return x * 2\n```"
        )
        assert record.score == float(record.answer == right)
    assert {r.question.kind for r in refined} == {"choice", "code"} and all(r.score == 0 for r in refined)
    scores = {a.score for r in refined for chain in r.chains for a in chain if a.score is not None}
    assert scores <= {round(n / 6, 6) for n in range(7)} and len(scores) > 2
    assert all(chain[-1].score == 1 or len(chain) == 4 for r in refined for chain in r.chains), "a chain with full marks is not refined"


REQUEST = "Name three rivers of France, not the Loire."


def selected(folder: Path, *found: Record, **settings: Any) -> list[str]:
    with whole(folder / "refined.jsonl") as file:
        file.writelines(map(records.line, found))
    values = replace(recipe.Recipe(("own:x",), recipe.Model("t"), recipe.Model("a")), **settings)
    select.select(folder / "refined.jsonl", folder / "pairs.jsonl", values)
    return [record["improved"] for record in lines(folder / "pairs.jsonl")]


def chained(*scores: float | None, text: str = REQUEST, improved: str = REQUEST + " Say where each rises.") -> Record:
    """A question whose original scores the first number, and a chain of attempts that score the others."""
    chain = tuple(Attempt(improved if n == 0 else f"{improved} Try {'again ' * n}.", score) for n, score in enumerate(scores[1:]))
    return Record(Question(f"own/{text}", "open", text), "Loire", 0.0, Attempt(text, scores[0]), (chain,))


def test_the_best_of_a_chain_is_selected_if_it_beats_its_own_original(tmp_path):
    assert selected(tmp_path, chained(0.2, 0.5, 0.3)) == [REQUEST + " Say where each rises."]
    assert selected(tmp_path, chained(0.5, 0.5, 0.3)) == []
    assert selected(tmp_path, chained(-3.0, None, None)) == []


@pytest.mark.parametrize(
    "improved",
    [
        "Name three rivers of France.",
        "Name rivers of France, not the Loire.",
        "Name three rivers, not the Loire.",
        f"{REQUEST} Say what happened in 1789.",
        "List three streams where people speak French, not the Loire.",
        f"{REQUEST} The Rhone, the Seine and the Garonne rise in mountains.",
        f"{REQUEST}\n- Seine\n- Garonne\n- Rhone",
        f"{REQUEST} France has rivers.",
        f"{REQUEST} Use this sentence:\nThe rivers of France are many.",
    ],
)
def test_a_prompt_that_lost_or_brings_in_something_is_not_selected(tmp_path, improved):
    assert selected(tmp_path, chained(0.2, 0.9, improved=improved)) == []


@pytest.mark.parametrize(
    "improved",
    [
        f"You are a patient geographer. {REQUEST}",
        f"{REQUEST}\n\n1. Name each river's source.\n2. Say where it ends.",
        f"{REQUEST} Where does each rise?",
        "Of the rivers of France, not the Loire: name three.",
    ],
)
def test_a_prompt_that_says_how_to_answer_is_selected(tmp_path, improved):
    assert selected(tmp_path, chained(0.2, 0.9, improved=improved)) == [improved]


def test_near_duplicates_and_evaluation_prompts_are_not_selected(tmp_path):
    near = "Name three rivers of France, but not the Loire."
    twice = chained(0.2, 0.5), chained(0.2, 0.5, text=near, improved=near + " Say where each rises.")
    assert selected(tmp_path, *twice) == [REQUEST + " Say where each rises."]
    unsuccessful = chained(0.5, 0.2), twice[1]
    assert selected(tmp_path, *unsuccessful) == [near + " Say where each rises."]
    (tmp_path / "evaluation.jsonl").write_text(json.dumps({"prompt": near}) + "\n")
    assert selected(tmp_path, *twice, against=(str(tmp_path / "evaluation.jsonl"),)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("worst", "wurst"), "unknown key 'wurst'"),
        (("worst = 0.5", "worst = 2"), "worst must be a share"),
        (("worst = 0.5", "versions = 0"), "versions must be at least 1"),
        (("worst = 0.5", 'rounds = "3"'), "rounds must be of type int"),
        (("worst = 0.5", "budget_tokens = 9000"), "[teacher] sampling must set max_tokens"),
        (("worst = 0.5", "budget_cost = 1.0"), "[teacher] sampling must set max_tokens"),
        (("[teacher]", "budget_cost = 1.0\n[teacher]\nsampling = { max_tokens = 60 }"), None),
        (("price_in = 1\nprice_out = 2", ""), None),
        (("[teacher]", "[pupil]"), "unknown key 'pupil'"),
        (("http://", "htp://"), "base_url must begin with"),
        (("worst = 0.5", 'reward = "r"'), "not by both"),
        (("[judge]", "[judge"), "recipe.toml"),
        (('model = "answerer"', 'model = "answerer"\nsampling = { n = 3 }'), "must not set n"),
        (("own:", "mine:"), "unknown source"),
        (('sources = ["own', 'sources = ["own:/none", "own'), "/none"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_told_in_a_sentence(tmp_path, server, change, message):
    written = write_recipe(tmp_path, server.base, 3)
    written.write_text(written.read_text().replace(*change))
    done = train("mine", written, "--out", tmp_path / "out")
    if message is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1 and not server.asked


def test_open_questions_need_somebody_to_score_them(tmp_path, server):
    written = write_recipe(tmp_path, server.base, 3)
    written.write_text(written.read_text().split("[judge]")[0])
    done = train("mine", written, "--out", tmp_path / "out")
    assert done.returncode == 1 and "give reward or [judge]" in done.stderr and not server.asked


def test_a_stage_without_its_file_names_it(tmp_path, server):
    done = train("propose", write_recipe(tmp_path, server.base, 3), "--out", tmp_path / "out")
    assert done.returncode == 1 and "hard.jsonl" in done.stderr and done.stderr.count("\n") == 1


def test_the_example_recipe_can_be_read():
    values = recipe.read(recipe.EXAMPLE)
    assert values.versions == 2 and values.rounds == 3 and values.teacher.sampling["max_tokens"] == 1000


def test_a_run_without_a_reward_model_imports_no_torch(tmp_path, server):
    program = (
        "import sys; from promptimal_trainer.command import main; code = main();"
        "sys.exit(code or 9 * bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    written = write_recipe(tmp_path, server.base, 3)
    assert subprocess.run([sys.executable, "-c", program, "run", written, "--out", tmp_path / "out"], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("reply", "improved"),
    [
        ("<add>Say where each rises.</add>", REQUEST + " Say where each rises."),
        ("Sure! <add>\nSay where each rises.\n</add> I hope this helps.", REQUEST + " Say where each rises."),
        ("Say where each rises.", REQUEST + " Say where each rises."),
        ("<prompt>Which three rivers of France, not the Loire, rise in hills?</prompt>", "Which three rivers of France, not the Loire, rise in hills?"),
        ("Here is the improved prompt:\n\n\"Which rivers rise in France?\"", "Which rivers rise in France?"),
    ],
)  # fmt: skip
def test_a_teacher_writes_what_to_add_or_all_of_a_prompt(reply, improved):
    assert instructions.read_improvement(reply).of(REQUEST) == improved


@pytest.mark.parametrize("reply", ["", "<add></add>", "<prompt> </prompt>"])
def test_a_reply_with_neither_is_no_answer(reply):
    with pytest.raises(ValueError, match="no prompt"):
        instructions.read_improvement(reply)
