"""A comparison hides who is who, and counts right."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from promptimal_trainer import compare
from promptimal_trainer.pairs import BadPairs, read_lines

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


def test_a_server_may_judge_and_an_interrupted_judging_goes_on(sheet):
    asked = []

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
            asked.append(question)
            first, second = question.split("First:")[1].split("Second:")[:2]
            verdict = json.dumps({"better": preferred({"first": first, "second": second}), "fault": "bad"})
            body = json.dumps({"choices": [{"message": {"content": f"Well: {verdict}"}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    pair = next(record for _, record in read_lines(sheet / "sheet.jsonl"))
    (sheet / "verdicts.jsonl").write_text(json.dumps({"id": pair["id"], "better": preferred(pair)}) + "\n")
    compare.ask_judge(sheet, url, "any")
    server.shutdown()
    assert len(asked) == 14
    assert compare.tally(sheet)[0][-1] == ("all", 10, 5, 5)
