"""Rewriting with somebody else's model: behind an OpenAI-compatible server, or in a file of its own."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptimal import server
from promptimal.engine import BadModel
from promptimal.models import _base
from promptimal.server import ServerRewriter

BASE = _base()


def test_a_server_rewrites_and_the_request_is_kept(promptimal, llama_server):
    done = promptimal("--api-base", llama_server, "--json", "Write an email to my landlord about the broken heating in flat 3B.")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rewrite"].startswith("Write an email to my landlord about the broken heating in flat 3B.")
    assert found["model"].endswith(".gguf")


def test_many_prompts_keep_their_order_and_pasted_text_is_not_sent(promptimal, llama_server):
    prompts = ["Why do cats purr?", "Summarize this:\n\n" + "The mill closed in 1987. " * 40, "Name three rivers."]
    done = promptimal("--jsonl", PROMPTIMAL_API_BASE=llama_server, stdin="\n".join(json.dumps({"prompt": p}) for p in prompts).encode())
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["prompt"] for r in rows] == prompts
    assert all(r["rewrite"].startswith(p.strip()) for r, p in zip(rows, prompts, strict=True))


def test_any_chat_model_in_a_file_rewrites_faithfully(promptimal):
    done = promptimal("--model", str(BASE), "--json", "-n", "2", "Plan a week in Lisbon for 2 adults and a baby.")
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        found = json.loads(line)
        assert found["rewrite"].startswith("Plan a week in Lisbon for 2 adults and a baby.")


class Faulty(http.server.BaseHTTPRequestHandler):
    """A server that fails in the ways real ones do, before it answers."""

    faults: list[str] = []  # noqa: RUF012
    seen: list[dict[str, str]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        """Where a redirected request arrives."""
        Faulty.seen.append(dict(self.headers))
        self.send_response(404)
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Faulty.seen.append(dict(self.headers))
        fault = Faulty.faults.pop(0) if Faulty.faults else ""
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")  # type: ignore[attr-defined]
            self.end_headers()
        elif fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Retry-After", "0.01")
            self.end_headers()
            self.wfile.write(b'{"error": "busy"}')
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "500")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
        else:
            answer = b"<html>" if fault == "html" else b"{}" if fault == "other" else json.dumps(ANSWER).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


ANSWER = {"choices": [{"message": {"content": "=\nExplain how it works, with an example."}}]}


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(server.time, "sleep", lambda seconds: None)
    Faulty.faults, Faulty.seen = [], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Faulty) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1"
        running.shutdown()


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut", "html"])
def test_a_passing_fault_is_tried_again(faulty, fault):
    Faulty.faults = [fault, fault]
    (rewrite,) = ServerRewriter(faulty, "m").rewrite("Why do cats purr?")
    assert rewrite.text == "Why do cats purr? Explain how it works, with an example."
    assert len(Faulty.seen) == 3


@pytest.mark.parametrize(("fault", "message"), [("401", "answered 401"), ("404", "answered 404"), ("other", "something else than a chat")])
def test_a_lasting_fault_is_told_at_once(faulty, fault, message):
    Faulty.faults = [fault] * 9
    with pytest.raises(BadModel, match=message):
        ServerRewriter(faulty, "m").rewrite("Why do cats purr?")
    assert len(Faulty.seen) == 1


def test_the_key_goes_to_the_server_and_nowhere_else(promptimal, faulty):
    Faulty.faults = ["401"]
    done = promptimal("--api-base", faulty, "--model", "m", "Why do cats purr?", PROMPTIMAL_API_KEY="sk-secret")
    assert done.returncode == 1
    assert Faulty.seen[0]["Authorization"] == "Bearer sk-secret"
    assert b"sk-secret" not in done.stderr + done.stdout


def test_the_key_does_not_follow_to_another_host(promptimal, faulty):
    Faulty.faults = ["redirect"]
    promptimal("--api-base", faulty, "--model", "m", "Why do cats purr?", PROMPTIMAL_API_KEY="sk-secret")
    assert [seen.get("Authorization") for seen in Faulty.seen] == ["Bearer sk-secret", None]


def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(promptimal, faulty):
    done = promptimal("--api-base", faulty, "--model", "m", "Why do cats purr?", PROMPTIMAL_API_KEY="sk-sec\rret")
    assert done.returncode == 1 and b"PROMPTIMAL_API_KEY" in done.stderr and b"sk-sec" not in done.stderr
    done = promptimal("--api-base", faulty, "--model", "m", "Why do cats purr?", PROMPTIMAL_API_KEY="sk-secret\r\n")
    assert done.returncode == 0


def test_a_server_that_speaks_no_json_is_not_said_to_be_down(faulty):
    Faulty.faults = ["html"] * 9
    with pytest.raises(BadModel, match=r"no JSON.*/v1"):
        ServerRewriter(faulty, "m").rewrite("Why do cats purr?")


def test_of_many_prompts_one_that_is_refused_is_an_error_in_its_line(promptimal, faulty):
    prompts = [f"Why is {n} prime?" for n in range(6)]
    Faulty.faults = ["400"]
    done = promptimal("--api-base", faulty, "--model", "m", "--jsonl", stdin="\n".join(json.dumps(p) for p in prompts).encode())
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert [r["prompt"] for r in rows] == prompts
    assert sum("error" in r for r in rows) == 1 and sum("rewrite" in r for r in rows) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--api-base", "localhost:8080"), b"no address of a server"),
        (("--api-base", "http://127.0.0.1:9/v1", "--model", "m"), b"is the server running?"),
    ],
)
def test_a_server_that_is_not_there_is_named(arguments, message):
    done = subprocess.run(
        [Path(sys.executable).parent / "promptimal", *arguments, "Why do cats purr?"],
        capture_output=True, stdin=subprocess.DEVNULL, env=os.environ, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.count(b"\n") == 1
