"""A person's own prompts: a text file with one a line, or JSON lines with "prompt". Nothing is known of a right answer."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from promptimal_trainer.sources import files
from promptimal_trainer.sources.question import Item, Question, missing

HUB = None


def from_file(path: Path) -> Iterator[Item]:
    """The prompts of a file, JSON lines where its name ends in .jsonl or .jsonl.gz; one that comes again is given once."""
    if ".jsonl" in path.suffixes:
        items = files.json_lines(path, from_record)
    else:
        items = ((place, _question(line)) for place, line in files.lines(path))
    seen = set()
    for place, item in items:
        name = item.id if isinstance(item, Question) else place
        if name not in seen:
            yield place, item
        seen.add(name)


def from_record(record: Any, number: int) -> Question | str:
    """The prompt of a record; it is named by its hash, so `number` is not used."""
    return missing(record, ("prompt",)) or _question(record["prompt"])


def _question(prompt: str) -> Question:
    text = prompt.strip()
    return Question(f"own/{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}", "open", text)
