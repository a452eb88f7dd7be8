"""Prompts kept across sessions, privately."""

import json
import signal
import stat

import pytest

BAD = ("--model", "/no/such.gguf")  # history needs no model
CONFIG = "automatic = false"


def kept(file) -> list[str]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_history_is_kept_across_sessions_and_only_for_its_owner(repl, history_file):
    terminal = repl(*BAD, config=CONFIG)
    for prompt in ("first of all", "second to none"):
        terminal.type(prompt + "\r")
        terminal.until("no suggestion: no model at /no/such.gguf")
        terminal.press("ctrl-c")
        terminal.until("cleared")
    terminal.press("ctrl-d")
    assert terminal.ended() == 0
    assert kept(history_file) == ["first of all", "second to none"]
    assert stat.S_IMODE(history_file.stat().st_mode) == 0o600

    terminal = repl(*BAD, config=CONFIG)
    terminal.until("cannot be used")
    terminal.type("third")
    terminal.press("up")
    terminal.until("> second to none")
    terminal.press("up")
    terminal.until("> first of all")
    terminal.press("down", "down")
    terminal.until("> third")
    terminal.press("ctrl-c")
    terminal.until("cleared")
    terminal.press("ctrl-r")
    terminal.until("I-search backward")
    terminal.type("irst")
    terminal.until("I-search backward: irst", "first of all")
    terminal.press("enter")
    terminal.until("> first of all", without="I-search")
    terminal.press("ctrl-c")
    terminal.type("/forget\r")
    terminal.until("forgotten: no earlier prompt is kept")
    assert not history_file.exists()
    terminal.press("up")
    terminal.rest(0.2)
    assert terminal.lines[0] == ">"


def test_a_private_session_forgets_what_others_kept(repl, history_file):
    history_file.parent.mkdir(parents=True)
    history_file.write_text('"from another day"\n')
    terminal = repl(*BAD, "--private", config=CONFIG)
    terminal.type("/forget\r")
    terminal.until("forgotten: no earlier prompt is kept")
    assert not history_file.exists()


@pytest.mark.parametrize(("flags", "environment"), [(("--private",), {}), ((), {"PROMPTIMAL_HISTORY": "0"})], ids=["flag", "environment"])
def test_a_private_session_keeps_nothing(repl, history_file, flags, environment):
    terminal = repl(*BAD, *flags, config=CONFIG, **environment)
    terminal.type("a secret\r")
    terminal.until("no suggestion")
    terminal.press("ctrl-c", "up")
    terminal.until("> a secret")
    terminal.press("ctrl-c", "ctrl-d")
    assert terminal.ended() == 0
    assert not history_file.exists()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM"])
def test_a_hang_up_loses_no_history_not_even_the_line(repl, history_file, name):
    terminal = repl(*BAD, config=CONFIG)
    terminal.type("sent\r")
    terminal.until("no suggestion")
    terminal.press("ctrl-c")
    terminal.type("not sent")
    terminal.until("> not sent")
    terminal.process.kill(getattr(signal, name))
    terminal.ended()
    assert kept(history_file) == ["sent", "not sent"]


def test_a_terminal_that_is_gone_loses_no_history(repl, history_file):
    terminal = repl(*BAD, config=CONFIG)
    terminal.type("not sent")
    terminal.until("> not sent")
    terminal.process.ptyproc.fileobj.close()
    terminal.process.ptyproc.delayafterclose = 0
    for _ in range(50):
        if history_file.exists():
            break
        terminal.process.ptyproc.isalive()
        signal.sigtimedwait([], 0.1)
    assert kept(history_file) == ["not sent"]


def test_a_history_that_cannot_be_written_is_told_and_all_goes_on(repl, history_file):
    history_file.parent.parent.write_text("a file where a folder belongs")
    terminal = repl(*BAD, config=CONFIG)
    terminal.type("still here\r")
    terminal.until("no suggestion")
    terminal.press("ctrl-c", "up")
    terminal.until("> still here")
