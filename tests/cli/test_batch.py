"""Many prompts: order kept, one line out for one in, nothing printed is lost."""

import json
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from promptimal.models import _base
from promptimal.workers import AHEAD, in_order

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


def test_resuming_into_another_file_is_refused_and_leaves_it_as_it_was(promptimal, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    for text, message in (
        ('"why is rain wet"\n"no line end"', b"is the input"),
        ('{"prompt": "x"}\n{"prompt": "y"', b"no output of this command"),
    ):
        prompts.write_text(text)
        source = ("-f", str(prompts)) if b"input" in message else ()
        done = promptimal("--jsonl", "--resume", str(prompts), *source, stdin=b'"why is snow white"\n')
        assert done.returncode == 1 and message in done.stderr
        assert prompts.read_text() == text


def test_a_byte_order_mark_is_no_part_of_the_first_line(promptimal):
    assert promptimal("--lines", stdin=b"\xef\xbb\xbfwhy is rain wet\nwhy is snow white").stdout.startswith(b"Why is rain wet?")


def test_a_model_that_writes_gives_each_line_while_the_input_still_waits(default_model):
    command = [BIN / "promptimal", "--lines", "--model", str(_base())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin and process.stdout
    process.stdin.write(b"Why is rain wet?\n")
    process.stdin.flush()
    assert select.select([process.stdout], [], [], 60)[0], "nothing within a minute"
    assert process.stdout.readline().startswith(b"Why is rain wet?")
    process.stdin.close()
    assert process.wait(60) == 0


def test_a_line_comes_out_while_the_input_still_waits(default_model):
    process = subprocess.Popen([BIN / "promptimal", "--lines"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin and process.stdout
    for line in (b"why is rain wet\n", b"why is snow white\n"):
        process.stdin.write(line)
        process.stdin.flush()
        assert select.select([process.stdout], [], [], 60)[0], "nothing within a minute"
        assert process.stdout.readline().startswith(line[:1].upper() + line[1:].strip())
    process.stdin.close()
    assert process.wait(60) == 0


def test_results_come_in_order_and_no_more_is_read_than_is_worked_on():
    read = []

    def items():
        for number in range(100):
            read.append(number)
            yield number

    results = in_order(items(), [lambda n: time.sleep(0.001 * (n % 3)) or n] * 3)
    assert next(results) == 0
    time.sleep(0.2)
    assert len(read) <= 3 * AHEAD + 1
    assert list(results) == list(range(1, 100))


def test_what_fails_is_raised_in_its_place():
    def items():
        yield from range(5)
        raise OSError("the input broke off")

    results = in_order(items(), [lambda n: n] * 2)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(OSError, match="broke off"):
        next(results)
    results = in_order([1, 0, 2], [lambda n: 1 // n])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
