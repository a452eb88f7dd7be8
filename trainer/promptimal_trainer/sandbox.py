"""Run code that a model wrote, and its tests, in a process of its own that can do little harm.

What holds everywhere: a fresh `python -I -S` (standard library alone) in an empty temporary folder, with an empty environment, no standard
input, its output thrown away, and limits on processor time, memory, size and number of open files and number of processes; when the
time is over, the whole process group is killed. On Linux, where the kernel lets a person make namespaces (`weaknesses` tells): no network,
no sight or signal of other processes, and everything it started dies with it. From Linux 5.13 on (Landlock): no file outside its folder
can be changed. Where root runs it, it becomes a user of its own, who may
still read.

What it does not stop: reading files that the user may read, though without network they can go nowhere; using up the
disk within its time, a megabyte a file; a hole in the kernel. And a solution can cheat: it shares an interpreter with its tests, so one
written to deceive can return objects that equal everything, or look for the secret that reports success. Printing, exiting early or
raising at the end do not pass. It is meant for a language model's honest mistakes; to run code of enemies, use a virtual machine.
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from promptimal_trainer.errors import TrainError

_JAIL = Path(__file__).with_name("jail.py")
_MEMORY = 512 << 20  # bytes
_LONGEST_REPLY = 1 << 16  # bytes
_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n`]*\n(.*?)(?:^[ \t]*\2[`~]*[ \t]*$|\Z)", re.M | re.S)


class NoSandbox(TrainError):
    """A machine on which no code can be run; the message says why."""


class Outcome(NamedTuple):
    """Whether the tests passed, and if not, why."""

    passed: bool
    why: str


def run_tests(code: str, tests: str, entry_point: str, *, seconds: float = 5.0) -> Outcome:
    """Run `code`, then `tests` (source that raises where the function `entry_point` is wrong), for at most `seconds` by the clock."""
    reply = _in_jail({"code": code, "tests": tests, "entry_point": entry_point, "seconds": seconds, "memory": _MEMORY}, seconds)
    if isinstance(reply, str):
        return Outcome(False, reply)
    return Outcome(reply.get("passed") is True, str(reply.get("why", "")))


def program(prompt: str, answer: str) -> str:
    """What is run for an answer to a code question: the code that the prompt gave (its imports and helpers), then the answer's.

    An answer that gives the function's body alone, indented, goes on where the prompt's code ends.
    """
    start, code = extract_code(prompt), extract_code(answer)
    body = code.lstrip("\n")[:1].isspace()
    return f"{start.rstrip()}\n{code}" if body else f"{start}\n\n{code}"


def extract_code(answer: str) -> str:
    """The code of a chat answer: its Python block, or its largest block, or, without any, all of it. Indentation is kept."""
    python = code_blocks(answer, languages=("python", "py", "python3")) or code_blocks(answer)
    defining = [code for code in python if re.search(r"^\s*(?:async )?def ", code, re.M)] or python
    return max(defining, key=len) if defining else answer


def code_blocks(text: str, languages: tuple[str, ...] = ()) -> list[str]:
    """The fenced blocks of a text in Markdown, those of these languages or all."""
    found = [(match[3].lower(), textwrap.dedent(match[4]) if match[1] else match[4]) for match in _FENCE.finditer(text)]
    return [code for language, code in found if not languages or language in languages]


@cache
def try_out() -> None:
    """Say once what the sandbox cannot do here. Raises NoSandbox where it does nothing: every program would count as wrong."""
    outcome = run_tests("def one():\n    return 1\n", "assert one() == 1\n", "one")
    if not outcome.passed:
        raise NoSandbox(f"the sandbox for code does not work here: {outcome.why}")
    for weakness in weaknesses():
        print(f"promptimal-train: sandbox: {weakness}", file=sys.stderr)


@cache
def weaknesses() -> tuple[str, ...]:
    """What this machine cannot keep from the code, a sentence each, to be shown once to the person who starts a run."""
    reply = _in_jail({"probe": True, "seconds": 5, "memory": _MEMORY}, 10)
    if isinstance(reply, str):
        return (f"the sandbox does not work here: {reply}",)
    return tuple(
        text
        for holds, text in (
            (reply["apart"], "this system allows no namespaces: code from the model can reach the network and signal other processes"),
            (reply["kept"], "this system has no Landlock: code from the model can change files that you may change"),
            (reply["readable"], "Python's library lies where only root can read it: code from the model cannot import, and fails"),
        )
        if not holds
    )


def _in_jail(job: dict[str, Any], seconds: float) -> dict[str, Any] | str:
    """What the jail says of a job, or why it says nothing."""
    secret = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="promptimal-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o777)  # for the user that the jail becomes
        (Path(folder) / "job.json").write_text(json.dumps(job), encoding="utf-8")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_JAIL), str(theirs.fileno())],
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            theirs.close()
            try:
                ours.sendall(secret.encode())
                received = _receive(ours, time.monotonic() + seconds)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if received is None:
        return f"it ran longer than {seconds:g} s"
    return _reply(received, secret)


def _receive(door: socket.socket, end: float) -> bytes | None:
    """The line that comes, or what there is of it when the other side closes; None when the time is over."""
    received = b""
    while len(received) < _LONGEST_REPLY and not received.endswith(b"\n"):
        door.settimeout(max(0.001, end - time.monotonic()))
        try:
            part = door.recv(_LONGEST_REPLY)
        except TimeoutError:
            return None
        except ConnectionResetError:  # it went without reading
            break
        if not part:
            break
        received += part
    return received


def _reply(received: bytes, secret: str) -> dict[str, Any] | str:
    try:
        told, reply = json.loads(received)
    except (ValueError, TypeError, RecursionError):
        return "it ended before its tests were done"
    return reply if told == secret and isinstance(reply, dict) else "it ended before its tests were done"
