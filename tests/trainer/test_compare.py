"""A comparison hides who is who, and counts right."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from promptimal_trainer import compare
from promptimal_trainer.pairs import BadPairs, read_lines

BIN = Path(sys.executable).parent
PROMPTS = [{"kind": "fact" if i % 2 else "code", "prompt": f"prompt {i}"} for i in range(20)]


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    """Ten prompts got better, as their text says, five worse, five stand."""
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))
    ends = ["GOOD"] * 10 + ["BAD"] * 5 + [""] * 5
    lines = [json.dumps({"prompt": p["prompt"], "rewrite": f"{p['prompt']} {e}".strip()}) for p, e in zip(PROMPTS, ends, strict=True)]
    (tmp_path / "b.jsonl").write_text("\n".join(lines) + "\n")
    assert compare.make_sheet("prompt", str(tmp_path / "b.jsonl"), tmp_path / "prompts.jsonl", tmp_path / "out") == 15
    return tmp_path / "out"


def preferred(pair: dict[str, str]) -> str:
    for side, other in (("first", "second"), ("second", "first")):
        if "GOOD" in pair[side]:
            return side
        if "BAD" in pair[side]:
            return other
    raise AssertionError(pair)


def test_the_sheet_hides_names_and_sides(sheet):
    pairs = [record for _, record in read_lines(sheet / "sheet.jsonl")]
    assert all(set(p) == {"id", "prompt", "first", "second"} for p in pairs)
    sides = {("GOOD" in p["first"] or "BAD" in p["first"]) for p in pairs}
    assert sides == {True, False}


def test_wins_ties_losses_by_kind_and_in_all(sheet):
    verdicts = [{"id": p["id"], "better": preferred(p), "fault": "vague"} for _, p in read_lines(sheet / "sheet.jsonl")]
    (sheet / "verdicts.jsonl").write_text("".join(json.dumps(v) + "\n" for v in verdicts))
    rows, faults = compare.tally(sheet)
    assert rows[-1] == ("all", 10, 5, 5)
    assert sum(r.wins for r in rows[:-1]) == 10
    assert faults == {"vague": 5}
    assert "| all | 20 | 50% | 25% | 25% | 30% to 70% |" in compare.table(rows, faults)


def test_a_missing_verdict_is_named(sheet):
    (sheet / "verdicts.jsonl").write_text('{"id": 0, "better": "first"}\n')
    with pytest.raises(BadPairs, match="no verdict"):
        compare.tally(sheet)


def test_wilson_interval_of_known_values():
    low, high = compare.wilson(10, 20)
    assert (round(low, 3), round(high, 3)) == (0.299, 0.701)
    assert compare.wilson(0, 10)[0] == pytest.approx(0)


class Judge:
    """A server that prefers by `preferred`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
                outer.asked.append(question)
                first, second = question.split("First:")[1].split("Second:")[:2]
                verdict = json.dumps({"better": preferred({"first": first, "second": second}), "fault": "bad"})
                body = json.dumps({"choices": [{"message": {"content": f"Well: {verdict}"}}]}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def judge() -> Iterator[Judge]:
    running = Judge()
    yield running
    running.server.shutdown()


def test_a_server_may_judge_and_an_interrupted_judging_goes_on(sheet, judge):
    pair = next(record for _, record in read_lines(sheet / "sheet.jsonl"))
    (sheet / "verdicts.jsonl").write_text(json.dumps({"id": pair["id"], "better": preferred(pair)}) + "\n")
    compare.ask_judge(sheet, judge.url, "any")
    assert len(judge.asked) == 14
    assert compare.tally(sheet)[0][-1] == ("all", 10, 5, 5)
    assert compare.judges(sheet) == ["any", "readers"]


def test_a_verdict_that_was_cut_off_is_asked_for_again(sheet, judge):
    compare.ask_judge(sheet, judge.url, "any")
    *kept, last = (sheet / "verdicts.jsonl").read_text().splitlines(keepends=True)
    (sheet / "verdicts.jsonl").write_text("".join(kept) + last[:12])  # the disk was full
    with pytest.raises(compare.Unjudged):
        compare.tally(sheet)
    judge.asked.clear()
    compare.ask_judge(sheet, judge.url, "any")
    assert len(judge.asked) == 1
    assert compare.tally(sheet)[0][-1] == ("all", 10, 5, 5)


def command(sheet: Path, a: str, b: str, *more: str) -> "subprocess.CompletedProcess[str]":
    arguments = [BIN / "promptimal-train", "compare", a, b, "--prompts", sheet.parent / "prompts.jsonl", "--out", sheet, *more]
    return subprocess.run(arguments, capture_output=True, text=True)


def test_the_table_names_the_judge(sheet, judge):
    done = command(sheet, "prompt", str(sheet.parent / "b.jsonl"), "--judge", judge.url, "--judge-model", "smollm2")
    assert done.returncode == 0, done.stderr
    assert "| all | 20 | 50% | 25% | 25% | 30% to 70% |" in done.stdout and "Judged by smollm2." in done.stdout
    assert command(sheet, "prompt", str(sheet.parent / "b.jsonl")).stdout == done.stdout


def test_the_verdicts_on_one_system_are_not_given_out_as_those_on_another(sheet, judge):
    compare.ask_judge(sheet, judge.url, "any")
    before = {path.name: path.read_bytes() for path in sheet.iterdir()}
    other = sheet.parent / "c.jsonl"
    other.write_text((sheet.parent / "b.jsonl").read_text().replace("GOOD", "BAD"))
    for a, b in (("prompt", str(other)), (str(sheet.parent / "b.jsonl"), "prompt")):
        done = command(sheet, a, b)
        assert done.returncode == 1 and done.stdout == ""
        assert "choose another --out" in done.stderr and len(done.stderr.splitlines()) == 1
    (sheet.parent / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS[:-1]))
    assert "choose another --out" in command(sheet, "prompt", str(sheet.parent / "b.jsonl")).stderr
    assert {path.name: path.read_bytes() for path in sheet.iterdir()} == before
