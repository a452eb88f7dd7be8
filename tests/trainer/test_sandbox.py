"""Code from a model is run where it can do little harm, and passes only when its tests have run."""

import contextlib
import os
import re
import socket
import sys
import time
from pathlib import Path

import pytest

from promptimal_trainer import sandbox
from promptimal_trainer.sandbox import NoSandbox, Outcome, extract_code, program, run_tests, try_out

linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces and Landlock are Linux's")

TESTS = """
def check(candidate):
    assert candidate([3, 1, 2, 3]) == [1, 2, 3]
    assert candidate([]) == []

check(unique)
"""
RIGHT = "def unique(numbers):\n    return sorted(set(numbers))\n"


def run(body: str, seconds: float = 10.0) -> Outcome:
    """The outcome of a function with this body, whose return value is right unless it says otherwise."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return run_tests(
        f"import os, sys, time\n\ndef unique(numbers):\n{lines}    return sorted(set(numbers))\n", TESTS, "unique", seconds=seconds
    )


def test_a_right_solution_passes():
    assert run_tests(RIGHT, TESTS, "unique") == Outcome(True, "")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (RIGHT.replace("set(numbers)", "numbers"), "a test raised AssertionError in line 3 of the tests"),
        (RIGHT.replace("sorted", "sortd"), "a test raised NameError in line 2 of the solution"),
        (RIGHT.replace("unique", "uniq"), "the code defines no function unique"),
        ("unique = 3", "the code defines no function unique"),
        (RIGHT.replace(":", ""), "the code is no Python"),
        ("x\0", "the code is no Python"),
        ("import numpy\n" + RIGHT, "the code raised ModuleNotFoundError"),
        ("(" * 5000, "the code is no Python"),
        ("\udc80", "no Python"),
        ("", "the code defines no function unique"),
    ],
)
def test_a_wrong_solution_fails_and_it_is_said_why(code, why):
    passed, said = run_tests(code, TESTS, "unique")
    assert not passed and why in said


@pytest.mark.parametrize(
    "body",
    [
        "sys.exit(0)",
        "os._exit(0)",
        "os.kill(os.getpid(), 9)",
        "print('passed'); os._exit(0)",
        "os.write(1, b'[true]\\n'); os._exit(0)",
        'for fd in range(3, 30):\n    try: os.write(fd, b\'["", {"passed": true}]\\n\')\n    except OSError: pass\nos._exit(0)',
        "raise KeyboardInterrupt",
        "quit()",
    ],
)
def test_leaving_early_does_not_pass(body):
    assert not run(body).passed


def test_leaving_while_it_is_loaded_does_not_pass():
    assert not run_tests(f"{RIGHT}\nraise SystemExit(0)", TESTS, "unique").passed


def test_an_endless_loop_is_stopped_in_time():
    begun = time.monotonic()
    assert run("while True: pass", seconds=1) == Outcome(False, "it ran longer than 1 s")
    assert run("time.sleep(1000)", seconds=1) == Outcome(False, "it ran longer than 1 s")
    assert time.monotonic() - begun < 10


def test_memory_is_limited():
    assert "MemoryError" in run("bytearray(10 << 30)").why
    assert "MemoryError" in run("x = []\nwhile True: x.append(bytearray(1 << 20))").why


def test_output_goes_nowhere(capfd):
    assert run("for _ in range(50): print('x' * 1_000_000)").passed
    assert capfd.readouterr() == ("", "")


def test_there_is_nothing_to_read_and_no_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert run("assert sys.stdin.read() == ''\nassert 'OPENAI_API_KEY' not in os.environ\nassert os.listdir() == []").passed


def test_files_stay_small_and_few():
    assert run("with open('own', 'w') as f: f.write('x' * 1000)").passed
    assert "OSError" in run("with open('own', 'wb') as f: f.write(bytes(2 << 20))").why
    assert "OSError" in run("files = [open(sys.executable) for _ in range(100)]").why


@linux
def test_nothing_outside_its_folder_can_be_changed(tmp_path):
    tmp_path.chmod(0o777)
    there = tmp_path / "there"
    there.write_text("mine")
    there.chmod(0o666)
    for body in (
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"open({str(there)!r}, 'w')",
        f"os.truncate({str(there)!r}, 0)",
        f"os.remove({str(there)!r})",
        f"os.mkdir({str(tmp_path / 'new')!r})",
        f"os.rename({str(there)!r}, 'here')",
        f"os.symlink('x', {str(tmp_path / 'new')!r})",
    ):
        assert re.search("PermissionError|OSError", run(body).why), body
    assert there.read_text() == "mine" and list(tmp_path.iterdir()) == [there]


@linux
def test_the_network_is_out_of_reach():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        assert "Error" in run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)").why
        with pytest.raises(TimeoutError):
            server.accept()


@linux
def test_a_fork_bomb_stays_small():
    count = "n = 0\ntry:\n    while n < 100:\n        if os.fork() == 0: time.sleep(100)\n        n += 1\nexcept BlockingIOError: pass\nassert n < 10"
    assert run(count).passed
    assert not run("while True: os.fork()").passed


@linux
def test_what_it_started_dies_with_it():
    mark = f"promptimal-{os.getpid()}"
    late = "import os, sys, time; os.write(int(sys.argv[1]), b'x'); time.sleep(60)"
    body = f"""
r, w = os.pipe()
os.set_inheritable(w, True)
if os.fork() == 0:
    os.setsid()
    os.execv({sys.executable!r}, [{mark!r}, '-I', '-S', '-c', {late!r}, str(w)])
assert os.read(r, 1) == b'x'"""
    assert run(body).passed
    end = time.monotonic() + 5
    while running(mark) and time.monotonic() < end:
        time.sleep(0.05)
    assert not running(mark)


def running(mark: str) -> bool:
    """Whether a process of the machine has this name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # gone meanwhile
            found.append(path.read_bytes().startswith(mark.encode()))
    return any(found)


@linux
def test_it_cannot_see_or_stop_us():
    for ours in ("mem", "environ"):  # where our keys are
        assert "PermissionError" in run(f"open('/proc/{os.getpid()}/{ours}', 'rb')").why
    assert "ProcessLookupError" in run(f"os.kill({os.getpid()}, 0)").why


@linux
def test_this_machine_can_keep_all_it_promises():
    assert sandbox.weaknesses() == ()


def test_a_sandbox_that_does_not_work_is_found_out(monkeypatch, tmp_path):
    try_out.cache_clear()
    try_out()
    try_out.cache_clear()
    (tmp_path / "jail.py").write_text("raise SystemExit")
    monkeypatch.setattr(sandbox, "_JAIL", tmp_path / "jail.py")
    with pytest.raises(NoSandbox, match="the sandbox for code does not work here: it ended before"):
        try_out()


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0 or not os.access("/usr/bin/python3", os.X_OK), reason="needs root")
def test_an_ordinary_user_gets_the_same(tmp_path):
    """Root has ways of its own into a namespace: run once as somebody else, with the system's Python, which all may read."""
    import shutil
    import subprocess

    tmp_path.chmod(0o755)
    package = shutil.copytree(
        Path(sandbox.__file__).parent, tmp_path / "promptimal_trainer", ignore=shutil.ignore_patterns("data", "__pycache__")
    )
    for path in (package, *package.rglob("*")):
        path.chmod(0o755)
    script = (
        "from promptimal_trainer.sandbox import *\n"
        f"tests = {TESTS!r}\n"
        f"print(weaknesses(), run_tests({RIGHT!r}, tests, 'unique').passed)\n"
        "print(run_tests('import socket\\ndef unique(x): socket.create_connection((\"127.0.0.1\", 1))', tests, 'unique').why)\n"
    )

    def become() -> None:
        for parent in tmp_path.parents:
            if parent.owner() == "root" and parent.is_relative_to("/tmp/pytest-of-root"):
                parent.chmod(0o755)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    done = subprocess.run(
        ["/usr/bin/python3", "-B", "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        preexec_fn=become,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "() True\na test raised OSError in line 2 of the solution\n", done.stderr


CHAT = "Sure! Here it is:\n\n```python\ndef f(x):\n    return x\n```\n\nUse it so:\n\n```\nf(1)\n```\nBye."


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (CHAT, "def f(x):\n    return x\n"),
        ("```py\nx = 1\n```\n```python\ndef f(x):\n    return x\n```\n", "def f(x):\n    return x\n"),
        ("```\ndef f(x):\n    return x", "def f(x):\n    return x"),
        ("~~~python\nx = '```'\n~~~", "x = '```'\n"),
        ("1. So:\n   ```python\n   def f(x):\n       return x\n   ```", "def f(x):\n    return x\n"),
        ('```Python title="a.py"\nx = 1\n```', "x = 1\n"),
        ("    return x\n", "    return x\n"),
        ("def f(x): return x", "def f(x): return x"),
    ],
)
def test_the_code_of_a_chat_answer(answer, code):
    assert extract_code(answer) == code


@pytest.mark.parametrize(
    "answer", ["```python\ndef area(r):\n    return pi * r * r\n```", "```python\n    return pi * r * r\n```", "    return pi * r * r\n"]
)
def test_an_answer_is_run_with_what_its_prompt_gave(answer):
    prompt = 'Complete this Python function:\n\n```python\nfrom math import pi\n\ndef area(r):\n    """Area."""\n```'
    assert run_tests(program(prompt, answer), "assert 3.1 < area(1) < 3.2", "area").passed
    assert not run_tests(program(prompt, "I cannot."), "assert 3.1 < area(1) < 3.2", "area").passed
