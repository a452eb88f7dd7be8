"""Many prompts: order kept, one line out for one in, nothing printed is lost."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
PROMPTS = ["why do cats purr", "Name three rivers.", "Plan a week in Lisbon.", "¿Qué hora es?", "sort a list in python", "Is 91 prime?"] * 3


def test_each_line_is_rewritten_as_it_would_be_alone(promptimal):
    lines = [json.dumps({"id": i, "prompt": p}) for i, p in enumerate(PROMPTS)]
    done = promptimal("--jsonl", stdin="\n".join(lines).encode())
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["id"] for r in rows] == list(range(len(PROMPTS)))
    alone = {p: promptimal(p).stdout.decode().rstrip("\n") for p in set(PROMPTS)}
    assert [r["rewrite"] for r in rows] == [alone[p] for p in PROMPTS]


def test_an_error_stays_in_its_line(promptimal):
    done = promptimal("--jsonl", stdin=b'{"prompt": "why"}\nnonsense\n{"x": 1}\n{"prompt": " ", "id": 9}\n"tell me why"\n')
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert ["error" in r for r in rows] == [False, True, True, True, False]
    assert rows[3] == {"prompt": " ", "id": 9, "error": "the prompt is empty"}


def test_plain_lines_and_nul_bytes(promptimal):
    assert promptimal("--lines", stdin=b"why do cats purr\nwhy is rain wet\n").stdout.count(b"\n") == 2
    done = promptimal("-0", stdin=b"Fix this:\n\n```\nx=1\n```\0why is rain wet\0")
    first, second, rest = done.stdout.split(b"\0")
    assert first.startswith(b"Fix this:\n\n```\nx=1\n```") and second and rest == b""


def test_an_interrupted_run_goes_on_where_it_was(promptimal, tmp_path):
    lines = "".join(json.dumps({"id": i, "prompt": f"why is {i} not a prime number"}) + "\n" for i in range(60))
    out = tmp_path / "out.jsonl"
    process = subprocess.Popen([BIN / "promptimal", "--jsonl", "--resume", out], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin
    process.stdin.write(lines.encode())
    process.stdin.close()
    while not out.exists() or out.read_bytes().count(b"\n") < 10:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = out.read_bytes()
    out.write_bytes(before + b'{"id": 99, "half a li')
    done = promptimal("--jsonl", "--resume", str(out), stdin=lines.encode())
    assert done.returncode == 0
    assert out.read_bytes().startswith(before)
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == list(range(60))
