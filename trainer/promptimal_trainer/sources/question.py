"""The one shape that every source gives, and how a source names what it cannot use."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from promptimal_trainer.errors import TrainError

LETTERS = "ABCDEFGHIJ"


class BadSource(TrainError):
    """A source, or a row of it, that cannot be used; the message names the place."""


@dataclass(frozen=True)
class Question:
    """A prompt as a person would type it, and what is known of a right answer.

    `id` is stable: "mmlu/astronomy/17", "humaneval/3", "own/0b1f…". `kind` is "choice" (`answer` is the letter, `choices` the options in order,
    which stand in `text` as well), "open" (`answer` is a reference, perhaps empty) or "code" (`answer` is the body of the function
    `entry_point`, `tests` Python source that raises where a solution is wrong).
    """

    id: str
    kind: str
    text: str
    choices: tuple[str, ...] = ()
    answer: str = ""
    tests: str = ""
    entry_point: str = ""


Item = tuple[str, Question | str]
"""A place, "file:line", and the question that stands there, or what is wrong with it."""


class Hub(NamedTuple):
    """A data set of the hub: its name, configuration and split, and the columns that are read."""

    name: str
    config: str | None
    split: str
    columns: tuple[str, ...]


class Source(Protocol):
    """What the file of a source holds."""

    @property
    def HUB(self) -> Hub | None:
        """Its data set on the hub, if it has one."""

    def from_file(self, path: Path) -> Iterator[Item]:
        """The questions of a file in the published format, or of a folder of such. Raises BadSource where it cannot be read on."""

    def from_record(self, record: Any, number: int) -> Question | str:
        """The question of a record with the hub's columns, the `number`th from 1, or what is wrong with it."""


def missing(record: Any, columns: tuple[str, ...]) -> str:
    """What is wrong with a record that should have texts in these columns, or ""."""
    if not isinstance(record, dict):
        return "not a JSON object"
    wrong = [column for column in columns if not isinstance(record.get(column), str)]
    return f"no text in {', '.join(map(repr, wrong))}" if wrong else ""
