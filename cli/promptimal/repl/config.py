"""The REPL's settings: a small TOML file, environment variables and flags, and the page that documents them.

`read` gives what is in force, `document` the same as a TOML file with every key explained, `changed` one key set anew.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class BadConfig(Exception):
    """A setting that cannot be used; the message says what to do."""


class _Rule(NamedTuple):
    """What a key is for, which values it takes, and what wins over the file."""

    help: str
    values: tuple[str, ...] = ()
    least: float = 0
    most: float = 0
    overrides: str = ""


def _key(default: Any, help: str, *, values: tuple[str, ...] = (), least: float = 0, most: float = 0, overrides: str = "") -> Any:
    return field(default=default, metadata={"rule": _Rule(help, values, least, most, overrides)})


@dataclass(frozen=True)
class Settings:
    """What a person can set. The order is that of the documented file."""

    model: str = _key("", 'The model: the path of a GGUF chat model; "" is the default one.', overrides="--model, PROMPTIMAL_MODEL")
    api_base: str = _key(
        "", 'An OpenAI-compatible server whose model is used instead; "" is none.', overrides="--api-base, PROMPTIMAL_API_BASE"
    )
    suggestions: int = _key(3, "How many suggestions to make for a prompt, 1 to 8.", least=1, most=8, overrides="-n")
    automatic: bool = _key(True, "Suggest while you pause; false: only when Enter is pressed.")
    pause: float = _key(0.3, "Seconds without a key after which a suggestion is made, 0 to 10.", most=10)
    copy: bool = _key(True, "Copy a suggestion to the clipboard when it is taken.")
    editing: str = _key("emacs", "Keys for editing.", values=("emacs", "vi"))
    history: bool = _key(
        True, "Keep prompts across sessions, in a file that only you can read.", overrides="--private, PROMPTIMAL_HISTORY=0"
    )
    mouse: bool = _key(False, "Let the mouse place the cursor; the terminal's own selection then needs Shift.")
    colours: bool = _key(True, "Use the terminal's colours.", overrides="NO_COLOR")


KEYS = tuple(f.name for f in fields(Settings))


def path() -> Path:
    """Where the file belongs: the system's place for configuration."""
    import platformdirs

    return Path(platformdirs.user_config_dir("promptimal", appauthor=False)) / "config.toml"


def read(*, model: str | None = None, api_base: str | None = None, suggestions: int | None = None, private: bool = False) -> Settings:
    """The settings in force: the file's, then the environment's, then those of the flags given here. Raises BadConfig."""
    settings = _of_environment(_of_file(path()), os.environ)
    if model:
        settings = replace(settings, model=model)
    if api_base:
        settings = replace(settings, api_base=api_base)
    if suggestions:
        settings = replace(settings, suggestions=suggestions)
    return replace(settings, history=False) if private else settings


def changed(settings: Settings, key: str, value: object) -> Settings:
    """The settings with one key set anew. Raises BadConfig where there is no such key or it cannot have this value."""
    if key not in KEYS:
        near = get_close_matches(key, KEYS, 1)
        raise BadConfig(f"no setting is called {key}: " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(KEYS)}"))
    kind, rule = type(getattr(settings, key)), rule_of(key)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise BadConfig(f"{key} must be {_wanted(kind, rule)}, not {_as_toml(value)}")
    if (rule.values and value not in rule.values) or (rule.most and not rule.least <= value <= rule.most):  # type: ignore[operator]
        raise BadConfig(f"{key} must be {_wanted(kind, rule)}, not {_as_toml(value)}")
    return replace(settings, **{key: value})  # type: ignore[arg-type]


def parsed(text: str) -> object:
    """A value as a person types it after `/set KEY`: TOML, or a word without its quotation marks."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def document(settings: Settings) -> str:
    """The settings as a TOML file that explains every key."""
    lines = [
        "# Settings of the REPL, which `promptimal` opens on a terminal. These are in force now.",
        f"# To change them, write those that differ to {path()}",
    ]
    for key in KEYS:
        rule = rule_of(key)
        lines += ["", f"# {rule.help}" + (f" Wins over this: {rule.overrides}." if rule.overrides else "")]
        lines += [f"# One of: {', '.join(rule.values)}."] if rule.values else []
        lines += [f"{key} = {_as_toml(getattr(settings, key))}"]
    return "\n".join(lines) + "\n"


def rule_of(key: str) -> _Rule:
    """What is documented of a key."""
    rule: _Rule = next(f for f in fields(Settings) if f.name == key).metadata["rule"]
    return rule


def _of_file(file: Path) -> Settings:
    settings = Settings()
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return settings
    except OSError as error:
        raise BadConfig(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise BadConfig(f"{file} is not valid TOML ({error}): mend it, or see  promptimal config") from None
    try:
        for key, value in values.items():
            settings = changed(settings, key, value)
    except BadConfig as error:
        raise BadConfig(f"{file}: {error}") from None
    return settings


def _of_environment(settings: Settings, environment: Mapping[str, str]) -> Settings:
    if environment.get("PROMPTIMAL_MODEL"):
        settings = replace(settings, model=environment["PROMPTIMAL_MODEL"])
    if environment.get("PROMPTIMAL_API_BASE"):
        settings = replace(settings, api_base=environment["PROMPTIMAL_API_BASE"])
    if environment.get("PROMPTIMAL_HISTORY"):
        settings = replace(settings, history=environment["PROMPTIMAL_HISTORY"] != "0")
    return replace(settings, colours=False) if environment.get("NO_COLOR") else settings


def _wanted(kind: type, rule: _Rule) -> str:
    if rule.values:
        return " or ".join(f'"{value}"' for value in rule.values)
    if kind is bool:
        return "true or false"
    if kind is str:
        return "a text in quotation marks"
    return f"a {'whole ' if kind is int else ''}number from {rule.least:g} to {rule.most:g}"


def _as_toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def words(key: str) -> tuple[str, ...]:
    """The values of a key, where they can be counted."""
    return rule_of(key).values or (("true", "false") if isinstance(getattr(Settings(), key), bool) else ())
