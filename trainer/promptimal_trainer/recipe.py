"""Recipes: TOML files that a person copies and changes, one key a setting of a run; all keys must be there.

promptimal-train recipes
promptimal-train recipes copy llama2-7b my.toml
"""

import math
import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from promptimal import chat
from promptimal_trainer.errors import TrainError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent / "recipes"

TOKENS_A_PASS = 1024
"""Tokens, padding included, that go through the model at once, if it is more than one pair: enough to keep a chip busy, and what memory depends on is
then not the longest batch. The gradients of a batch's passes are summed, so that it makes no other difference."""


class BadRecipe(TrainError):
    """A recipe that cannot be run; the message names file, line and key, and says what is possible."""


@dataclass(frozen=True)
class Recipe:
    """A run's settings; the shipped files say what each one means."""

    base: str
    template: str
    epochs: int
    batch: int
    accumulate: int
    max_tokens: int
    lr: float
    lr_end: float
    warmup: float
    weight_decay: float
    clip: float
    asks_lr: float
    rank: int
    alpha: int
    dropout: float
    skip_layers: int
    precision: str
    quantize: str
    gradient_checkpointing: bool
    held_out: float
    seed: int


class _Range(NamedTuple):
    """The numbers that a key may have: from `least` to `most`, both included."""

    least: float
    most: float = math.inf


_WORDS = {
    "template": tuple(chat.TEMPLATES),
    "precision": ("auto", "bfloat16", "float16", "float32"),
    "quantize": ("none", "nf4"),
}
_RANGES: dict[str, _Range] = {
    **dict.fromkeys(("epochs", "batch", "accumulate", "rank", "alpha"), _Range(1)),
    **dict.fromkeys(("lr", "asks_lr"), _Range(1e-9, 1)),
    **dict.fromkeys(("lr_end", "warmup", "weight_decay"), _Range(0, 1)),
    **dict.fromkeys(("skip_layers", "seed"), _Range(0)),
    "max_tokens": _Range(16),
    "clip": _Range(1e-6),
    "dropout": _Range(0, 0.9),
    "held_out": _Range(0.001, 0.9),
}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text that is not empty"}


def names() -> dict[str, str]:
    """The shipped recipes, each with its own first line: what it is for."""
    return {path.stem: path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ") for path in sorted(RECIPES.glob("*.toml"))}


def copy(name: str, to: Path) -> None:
    """Write a shipped recipe to a new file. Raises BadRecipe where there is no such recipe, or the file exists."""
    text = _shipped(name).read_text(encoding="utf-8")
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise BadRecipe(f"{to} exists already, and is left as it is: give another name") from error


def read_recipe(name: str) -> Recipe:
    """A recipe by the name of a shipped one or the path of a TOML file.

    Raises BadRecipe where it is missing, is no TOML, or has unknown, missing or impossible keys.
    """
    path = Path(name) if name.endswith(".toml") else _shipped(name)
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except FileNotFoundError as error:
        raise BadRecipe(_unknown(name)) from error
    except tomllib.TOMLDecodeError as error:
        line = re.search(r" \(at line (\d+).*\)", str(error))
        what = str(error).replace(line[0], "") if line else str(error)
        raise BadRecipe(f"{path}:{line[1] if line else len(text.splitlines())}: not TOML: {what}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadRecipe(f"{path}: cannot be read: {error}") from error
    kinds: dict[str, Any] = {f.name: f.type for f in fields(Recipe)}
    for key, value in values.items():
        if key not in kinds:
            raise BadRecipe(f"{path}:{_line(text, key)}: key {key}: unknown; the keys are: {', '.join(kinds)}")
        if kinds[key] is float and type(value) is int:
            values[key] = float(value)
        if not _is_possible(key, kinds[key], values[key]):
            raise BadRecipe(f"{path}:{_line(text, key)}: key {key}: must be {_possible(key, kinds[key])}, not {value!r}")
    if missing := [key for key in kinds if key not in values]:
        raise BadRecipe(
            f"{path}:{len(text.splitlines())}: key {missing[0]}: missing; it must be {_possible(missing[0], kinds[missing[0]])}"
        )
    return Recipe(**values)


def _shipped(name: str) -> Path:
    if name not in names():
        raise BadRecipe(_unknown(name))
    return RECIPES / f"{name}.toml"


def _unknown(name: str) -> str:
    return f"no recipe {name!r}: give the path of a .toml file or one of: {', '.join(names())}"


def _line(text: str, key: str) -> int:
    """The number of the line that sets a key, or opens a table of its name."""
    sets = re.compile(rf"""\s*(?:\[+\s*)?["']?{re.escape(key)}["']?\s*[=.\]]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if sets.match(line)), 1)


def _is_possible(key: str, kind: Any, value: Any) -> bool:
    if type(value) is not kind:
        return False
    if key in _WORDS:
        return bool(value in _WORDS[key])
    if key in _RANGES:
        least, most = _RANGES[key]
        return bool(least <= value <= most)
    return bool(value != "")


def _possible(key: str, kind: type) -> str:
    if key in _WORDS:
        return "one of " + ", ".join(map(repr, _WORDS[key]))
    if key not in _RANGES:
        return _KINDS[kind]
    least, most = _RANGES[key]
    return f"{_KINDS[kind]} of at least {least:g}" if most == math.inf else f"{_KINDS[kind]} from {least:g} to {most:g}"
