"""MMLU: multiple choice in 57 subjects (Hendrycks et al. 2021, arXiv:2009.03300). Published as a CSV file a subject, without a header."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from promptimal_trainer.sources import files
from promptimal_trainer.sources.question import LETTERS, BadSource, Hub, Item, Question

HUB = Hub("cais/mmlu", "all", "test", ("question", "subject", "choices", "answer"))
_FIELDS = 6  # question, four options, letter


def from_file(path: Path) -> Iterator[Item]:
    """The questions of a CSV file, or of all CSV files of a folder."""
    if path.is_dir():
        inside = sorted(path.glob("*.csv"))
        if not inside:
            raise BadSource(f"{path}: no .csv files in this folder")
        for one in inside:
            yield from from_file(one)
        return
    subject = path.stem.removesuffix("_test")  # as the hub names it
    with files.open_text(path) as file:
        rows, line, number = csv.reader(file, strict=True), 1, 0
        while True:
            place, number = f"{path}:{line}", number + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield place, f"not CSV: {error}"
            else:
                if row is None:
                    return
                if row:
                    yield place, _from_row(row, subject, number)
            line = rows.line_num + 1


def from_record(record: Any, number: int) -> Question | str:
    """The question of a record of the hub: {"question", "subject", "choices": [4 texts], "answer": 0 to 3}; `number` is its row."""
    if not 0 <= record["answer"] < len(record["choices"]):
        return f"the answer is option {record['answer']} of {len(record['choices'])}"
    return _question(f"{record['subject']}/row-{number}", record["question"], record["choices"], LETTERS[record["answer"]])


def _from_row(row: list[str], subject: str, number: int) -> Question | str:
    if len(row) != _FIELDS:
        return f"{len(row)} fields instead of {_FIELDS}: question, A, B, C, D, answer"
    *options, letter = row[1:]
    if letter.strip() not in tuple(LETTERS[: len(options)]):
        return f"the answer must be one of A to D, not {letter!r}"
    return _question(f"{subject}/{number}", row[0], options, letter.strip())


def _question(name: str, question: str, options: list[str], letter: str) -> Question | str:
    choices = tuple(option.strip() for option in options)
    if not question.strip():
        return "the question is empty"
    if not all(choices):
        return "an option is empty"
    listed = "\n".join(f"{mark}. {choice}" for mark, choice in zip(LETTERS, choices, strict=False))
    return Question(f"mmlu/{name}", "choice", f"{question.strip()}\n\n{listed}", choices, letter)
