"""Many lines, Emacs and vi keys, the mouse."""

import re

BAD = ("--model", "/no/such.gguf")  # editing needs no model


def test_a_paste_of_many_lines_is_one_prompt(repl):
    terminal = repl(config="automatic = false")
    terminal.until("default model")
    terminal.paste("explain this:\n\ndef double(x):\n    return 2 * x\n")
    terminal.until("> explain this: def double(x): return 2 * x")
    assert terminal.lines[:4] == ["> explain this:", "", "  def double(x):", "      return 2 * x"]
    terminal.rest(0.3)
    assert "rewriting" not in terminal.text
    terminal.press("enter")
    terminal.until("1 of 3")
    terminal.press("ctrl-n")
    terminal.until("2 of 3")
    assert terminal.text.count("return 2 * x") == 2


def test_alt_enter_begins_a_new_line_and_sends_nothing(repl):
    terminal = repl(*BAD, config="automatic = false")
    terminal.until("/help")
    terminal.type("one")
    terminal.press("alt-enter")
    terminal.type("two")
    terminal.until("> one two")
    assert terminal.lines[:2] == ["> one", "  two"]


def test_emacs_keys(repl):
    terminal = repl(*BAD, config="automatic = false")
    terminal.type("cats purr")
    terminal.press("ctrl-a")
    terminal.type("why ")
    terminal.until("> why cats purr")
    terminal.press("ctrl-k")
    terminal.until("> why", without="purr")
    terminal.press("ctrl-y")
    terminal.until("> why cats purr")


def test_vi_keys(repl):
    terminal = repl(*BAD, config='automatic = false\nediting = "vi"')
    terminal.type("cats purr loudly")
    terminal.until("> cats purr loudly", "insert")
    terminal.press("escape")
    terminal.until("navigation")
    terminal.type("0dw")
    terminal.until("> purr loudly", without="cats")
    terminal.type("A now")
    terminal.until("> purr loudly now", "insert")
    terminal.press("escape")
    terminal.until("navigation")
    terminal.type("/")
    terminal.rest(0.3)
    assert "no command" not in terminal.text


def test_the_mouse_is_left_alone_unless_wanted(repl):
    for config, wanted in (("", False), ("mouse = true", True)):
        terminal = repl(*BAD, config=config)
        terminal.until("cannot be used")
        assert bool(re.search(rb"\x1b\[\?1000h", terminal.received)) == wanted


def test_control_and_invisible_characters_are_written_out(repl):
    terminal = repl(*BAD, config="automatic = false")
    terminal.until("cannot be used")
    terminal.paste("red \x1b[31m and \u202e back")
    terminal.until("> red \\x1b[31m and \\u202e back")
    terminal.type("!")
    terminal.until("back!")
    assert "\u202e".encode() not in terminal.received
    terminal.press("enter")
    terminal.until("no suggestion")
    terminal.press("enter")
    terminal.until("> red \\x1b[31m and \\u202e back! >")
    assert "\u202e".encode() not in terminal.received
