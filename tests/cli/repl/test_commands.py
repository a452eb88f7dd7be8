"""What can be typed after a "/"."""

import stat

import pytest

PROMPT = "why do cats purr even when they are hurt"


@pytest.fixture
def session(repl, tmp_path):
    """A session in which a suggestion was made and the prompt put away; its text is `session.wanted`."""
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf " Edited." >> "$1"\n')
    editor.chmod(0o755)
    terminal = repl(lines=40, EDITOR=str(editor), VISUAL="")
    terminal.type(PROMPT)
    terminal.until("1 of 3")
    terminal.wanted = terminal.suggestion
    terminal.press("enter", "enter")
    terminal.until("Why", without="1 of 3")
    return terminal


def give(terminal, command: str, *wanted: str) -> None:
    terminal.type(command + "\r")
    terminal.until(*wanted)


def test_copy_save_diff_and_why_work_on_the_suggestion(session, tmp_path):
    give(session, "/copy", "copied (OSC 52)")
    assert session.copied == session.wanted
    file = tmp_path / "out.txt"
    give(session, f"/save {file}", "saved to")
    assert file.read_text() == session.wanted + "\n"
    give(session, f"/save {file}", "is there already")
    give(session, "/save /no/such/place", "cannot write /no/such/place: No such file or directory")
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == ["out.txt"]
    give(session, "/diff", "[-why-]{+Why+} do cats purr even when they are hurt{+?+} {+")
    give(session, "/why", "request in your own words", "that the first helps", "check ")


def test_retry_and_n_make_other_and_more_suggestions(session):
    session.type("/retry\r")
    session.until("1 of 3")
    assert session.wanted not in session.prose.split("> " + PROMPT)[-1]
    session.press("ctrl-c")
    session.until("cleared")
    give(session, "/n 5", "1 of 5", "suggestions is 5 now")
    session.press("ctrl-c")
    give(session, "/n 9", "suggestions must be a whole number from 1 to 8, not 9")


def test_open_gives_the_prompt_to_the_editor_and_takes_it_back(session):
    session.type("/open\r")
    session.until("Edited.")
    assert session.wanted.replace(" ", "") + "Edited." in session.text.replace(" ", "").replace("\n", "")


def test_an_unknown_command_names_the_nearest_and_stays_in_the_line(session):
    give(session, "/histroy", "no command is called /histroy: did you mean /history?", "> /histroy")


def test_model_set_history_and_help(session, default_model):
    give(session, "/model", "the model is default model")
    give(session, "/model /no/such.gguf", "the model cannot be used: no model at /no/such.gguf", "default model")
    give(session, f"/model {default_model}", default_model.stem[:20])
    session.until("1 of 3")
    session.press("ctrl-c")
    give(session, "/set", f'model = "{str(default_model)[:20]}', "pause = 0.3", "mouse = false")
    give(session, "/set pause 2", "pause is 2.0 now, for this session")
    give(session, "/set api_base localhost", "the model cannot be used: localhost is no address", default_model.stem[:20])
    give(session, "/set paus 2", "no setting is called paus: did you mean pause?")
    give(session, "/history cats", "> /history " + PROMPT)
    give(session, "/help", "/why show what was added", "Ctrl-Z give back what was typed")


def test_commands_complete_with_a_line_of_help_each(repl):
    terminal = repl("--model", "/no/such.gguf")
    terminal.type("/")
    for name in ("/copy", "/save", "/open", "/diff", "/why", "/n", "/model", "/set", "/history", "/retry", "/help", "/forget"):
        terminal.until(name)
    terminal.until("write the suggestion to a new file", "load another model")
    terminal.type("se")
    terminal.until("change a setting", without="/copy")
    terminal.press("tab")
    terminal.until("> /set")
    terminal.type(" edi")
    terminal.until("Keys for editing")
    terminal.press("tab")
    terminal.type(" ")
    terminal.until("emacs", "vi")


def test_a_path_and_a_line_with_a_blank_before_it_are_prompts(repl):
    terminal = repl()
    terminal.type("/usr/bin is what kind of folder?\r")
    terminal.until("1 of", seconds=30)
    terminal.press("ctrl-c")
    terminal.type(" /help is what kind of command?\r")
    terminal.until("1 of", without="list commands")


def test_a_saved_file_is_like_any_other(session, tmp_path):
    (tmp_path / "any").touch()
    give(session, f"/save {tmp_path}/new.txt", "saved")
    assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == stat.S_IMODE((tmp_path / "any").stat().st_mode)
    give(session, f"/save {tmp_path}/new.txt", "is there already")
    give(session, "/save ~nobody-of-that-name/x", "cannot write")


def test_what_is_typed_while_a_command_prints_goes_to_the_line(session):
    session.type("/help\r/why\rwhy do dogs")
    session.until("> why do dogs", "Ctrl-Z give back", "> /why request")
    assert session.text.count("why do dogs") == 1
    assert session.text.count("> /why") == 1 and "\n/why\n" not in session.text
