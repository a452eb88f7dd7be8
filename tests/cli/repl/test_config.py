"""`promptimal config` prints what is in force."""

import sys
from dataclasses import fields

import pytest

from promptimal.repl import config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture
def printed(promptimal, tmp_path):
    """What the command prints with this file, these flags and this environment."""

    def run(*flags: str, file: str = "", **environment: str) -> str:
        (tmp_path / "promptimal").mkdir(exist_ok=True)
        (tmp_path / "promptimal/config.toml").write_text(file)
        done = promptimal("config", *flags, XDG_CONFIG_HOME=str(tmp_path), **environment)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    return run


def test_every_key_is_documented_and_the_page_is_a_file_that_can_be_read_back(printed):
    text = printed()
    values = tomllib.loads(text)
    assert list(values) == [field.name for field in fields(config.Settings)]
    lines = text.splitlines()
    assert all(lines[i - 1].startswith("# ") for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert tomllib.loads(printed(file=text)) == values


def test_flags_and_environment_win_over_the_file(printed):
    file = 'model = "file.gguf"\nsuggestions = 2\nhistory = true\ncolours = true'
    assert tomllib.loads(printed(file=file))["model"] == "file.gguf"
    environment = {"PROMPTIMAL_MODEL": "environment.gguf", "NO_COLOR": "1", "PROMPTIMAL_HISTORY": "0"}
    values = tomllib.loads(printed(file=file, **environment))
    assert (values["model"], values["suggestions"], values["history"], values["colours"]) == ("environment.gguf", 2, False, False)
    values = tomllib.loads(printed("--model", "flag.gguf", "-n", "4", "--private", file=file, PROMPTIMAL_MODEL="environment.gguf"))
    assert (values["model"], values["suggestions"], values["history"]) == ("flag.gguf", 4, False)


def test_the_prompt_config_can_still_be_piped_in(promptimal):
    assert promptimal(stdin=b"config").stdout.startswith(b"Config")
