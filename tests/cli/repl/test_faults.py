"""What goes wrong, and what is left then."""

PROMPT = "why do cats purr even when they are hurt"


def test_ctrl_c_cancels_what_runs_then_clears_the_line(repl):
    terminal = repl(config="pause = 0")
    terminal.until("default model")
    terminal.type(PROMPT)
    terminal.until("rewriting …")
    terminal.press("ctrl-c")
    terminal.until("cancelled: Enter rewrites it after all", "> " + PROMPT)
    terminal.rest(1.5)
    assert "1 of 3" not in terminal.text
    terminal.press("enter")
    terminal.until("1 of 3")
    terminal.press("ctrl-c")
    terminal.until("cleared: Ctrl-Z gives it back", without=PROMPT)
    terminal.press("ctrl-z")
    terminal.until("> " + PROMPT, "1 of 3")


def test_ctrl_d_leaves_an_empty_line_and_a_clean_screen(repl):
    terminal = repl("--private")
    terminal.until("/help")
    terminal.press("ctrl-c")
    terminal.until("Ctrl-D leaves")
    terminal.press("ctrl-d")
    assert terminal.ended() == 0
    assert terminal.text == ">"


def test_a_model_that_fails_leaves_a_usable_prompt_with_the_reason(repl):
    terminal = repl("--model", "/no/such.gguf")
    terminal.until("the model cannot be used: no model at /no/such.gguf: give the path of a .gguf file")
    terminal.type(PROMPT)
    terminal.until("> " + PROMPT, "no suggestion: no model at /no/such.gguf")
    terminal.press("ctrl-c")
    terminal.type("/model default\r")
    terminal.until("1 of 3", "default model")


def test_a_damaged_configuration_is_one_clear_sentence(repl):
    for config, message in (
        ("pause = \n", "is not valid TOML"),
        ("pauze = 1", "no setting is called pauze: did you mean pause?"),
        ('pause = "long"', 'pause must be a number from 0 to 10, not "long"'),
        ('editing = "ed"', 'editing must be "emacs" or "vi", not "ed"'),
    ):
        terminal = repl(config=config)
        assert terminal.ended() == 1
        assert message in terminal.prose
        assert "Traceback" not in terminal.text


def test_a_dumb_terminal_gets_the_help(repl):
    terminal = repl(TERM="dumb")
    assert terminal.ended() == 2
    assert "usage: promptimal" in terminal.received.decode()
