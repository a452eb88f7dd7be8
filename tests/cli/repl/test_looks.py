"""The toolbar, colours, narrow windows, wide characters, resizing."""

import re

PROMPT = "why do cats purr even when they are hurt"


def test_the_toolbar_tells_model_time_and_speed(repl):
    terminal = repl()
    terminal.type(PROMPT)
    terminal.until("1 of 3")
    assert re.fullmatch(r" default model +\d+\.\d\d s · [\d,]+ tokens/s", terminal.lines[-1])


def test_no_color_means_none_and_the_changes_are_still_told_apart(repl):
    terminal = repl(NO_COLOR="1")
    terminal.type(PROMPT)
    terminal.until("1 of 3")
    assert not re.search(rb"\x1b\[(?:[\d;]*;)?(?:3[0-7]|9[0-7]|4[0-7]|38|48)[;m]", terminal.received)
    assert terminal.style("Why") == ("default", False, True)
    assert terminal.style("do cats purr even when they are hurt?") == ("default", False, False)


def test_a_narrow_terminal_shows_all_of_it_and_no_word_is_cut(repl):
    terminal = repl(columns=24)
    terminal.type(PROMPT)
    terminal.until("1 of 3 · Tab takes it")
    assert "Why do cats purr even when they are hurt?" in terminal.prose
    rows = [row.strip() for row in terminal.lines if row]
    assert any(row == "Why do cats purr even" for row in rows)


def test_wide_characters_and_emoji_take_their_two_columns(repl):
    terminal = repl("--model", "/no/such.gguf", config="automatic = false")
    terminal.type("日本語 and 🎉!")
    terminal.cursor_at(2 + 6 + 5 + 2 + 1, 0)
    terminal.press("backspace", "backspace")
    terminal.cursor_at(2 + 6 + 5, 0)
    terminal.press("ctrl-a")
    terminal.cursor_at(2, 0)


def test_resizing_while_a_suggestion_is_made(repl):
    terminal = repl(config="automatic = false")
    terminal.type(PROMPT)
    terminal.until("default model")
    terminal.press("enter")
    for columns in (40, 30, 100):
        terminal.resize(columns, 24)
        terminal.rest(0.05)
    terminal.until("1 of 3")
    assert len(terminal.lines[-1]) == 99
    assert terminal.text.count("1 of 3") == 1
    assert "Why do cats purr even when they are hurt?" in terminal.prose


def test_a_key_redraws_no_more_than_what_changed(repl):
    terminal = repl("--model", "/no/such.gguf", config="automatic = false")
    terminal.type("why do cats")
    terminal.until("> why do cats")
    terminal.rest(0.3)
    before = len(terminal.received)
    terminal.type("x")
    terminal.until("catsx")
    terminal.rest(0.2)
    sent = terminal.received[before:]
    assert b"\x1b[2J" not in sent and b"\x1b[J" not in sent
    assert len(sent) < 120, sent
