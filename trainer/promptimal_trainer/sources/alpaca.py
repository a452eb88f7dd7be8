"""Alpaca: open instructions with a reference answer (Taori et al. 2023, github.com/tatsu-lab/stanford_alpaca). Published as one JSON list."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from promptimal_trainer.sources import files
from promptimal_trainer.sources.question import BadSource, Hub, Item, Question, missing

HUB = Hub("tatsu-lab/alpaca", None, "train", ("instruction", "input", "output"))
_NO_INPUT = re.compile(r"<?no ?input>?\.?", re.I)  # as some entries say it
_SPACE = re.compile(r"[ \t\r\n]*")


def from_file(path: Path) -> Iterator[Item]:
    """The questions of a JSON list of {"instruction", "input", "output"}, one decoded at a time."""
    with files.open_text(path) as file:
        text = file.read()
    start = _skip(text, 0)
    if text[start : start + 1] != "[":
        raise BadSource(f"{path}: not a JSON list")
    here, line, counted, number = _skip(text, start + 1), 1, 0, 0
    while text[here : here + 1] != "]":
        line, counted, number = line + text.count("\n", counted, here), here, number + 1
        try:
            record, here = json.JSONDecoder().raw_decode(text, here)
        except (json.JSONDecodeError, RecursionError) as error:
            raise BadSource(f"{path}:{line}: not JSON, and what follows cannot be told apart") from error
        yield f"{path}:{line}", from_record(record, number)
        here = _skip(text, here)
        if text[here : here + 1] == ",":
            here = _skip(text, here + 1)
        elif text[here : here + 1] != "]":
            raise BadSource(f"{path}:{line}: after this entry a comma or the list's end is missing")


def from_record(record: Any, number: int) -> Question | str:
    """The question of an entry; `number` is its place in the list, from 1."""
    if wrong := missing(record, HUB.columns):
        return wrong
    instruction, material = record["instruction"].strip(), record["input"].strip()
    if not instruction:
        return "the instruction is empty"
    text = instruction if not material or _NO_INPUT.fullmatch(material) else f"{instruction}\n\n{material}"
    return Question(f"alpaca/{number}", "open", text, answer=record["output"].strip())


def _skip(text: str, here: int) -> int:
    """The next position that is no white space."""
    match = _SPACE.match(text, here)
    return match.end() if match else here
