"""Open the files of a source and read their lines; bytes that are no UTF-8 are kept for the row that holds them to be named."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from promptimal_trainer.sources.question import BadSource, Item, Question


def open_text(path: Path) -> TextIO:
    """The file, unpacked where its name ends in .gz. Raises BadSource where it cannot be opened."""
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
        return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise BadSource(f"{path}: cannot be read: {error.strerror}") from error


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, with its place, "file:line"."""
    with open_text(path) as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", line
        except (OSError, EOFError, zlib.error) as error:
            raise BadSource(f"{path}: cannot be unpacked: {error}") from error


def json_lines(path: Path, from_record: Callable[[Any, int], Question | str]) -> Iterator[Item]:
    """The questions of a file with a JSON object on each line."""
    for number, (place, line) in enumerate(lines(path), 1):
        yield place, _parse(line, number, from_record)


def _parse(line: str, number: int, from_record: Callable[[Any, int], Question | str]) -> Question | str:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return "not JSON"
    return from_record(record, number)
