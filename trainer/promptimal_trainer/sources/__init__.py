"""Questions to build training data from, whatever their source: one shape, read one at a time.

    mmlu:/data/mmlu/test       a folder of CSV files, or one of them      mmlu         cais/mmlu on the hub
    alpaca:/data/alpaca.json   a JSON list                                alpaca       tatsu-lab/alpaca on the hub
    humaneval:/data/h.jsonl.gz JSON lines                                 humaneval    openai/openai_humaneval on the hub
    own:/home/me/prompts.txt   a person's prompts, one a line, or JSON lines with "prompt"

Each source is a file of its own with the same three things: HUB, `from_file` and `from_record`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from promptimal_trainer.sources import alpaca, hub, humaneval, mmlu, own
from promptimal_trainer.sources.question import BadSource, Item, Question, Source

__all__ = ["SOURCES", "BadSource", "Question", "read"]

SOURCES: dict[str, Source] = {"mmlu": mmlu, "alpaca": alpaca, "humaneval": humaneval, "own": own}


def read(spec: str, *, skip_bad: bool = False) -> Iterator[Question]:
    """The questions that `spec` names, "source:path" or a source alone for its data set on the hub, in the order they stand there.

    A row that cannot be used raises BadSource, "file:line: what is wrong"; with `skip_bad` such rows are left out, and how many is said
    on stderr at the end. Raises BadSource also where there is nothing to read.
    """
    first, good, bad = "", 0, 0
    for place, question in _items(spec):
        wrong = question if isinstance(question, str) else _fault(question)
        if wrong and not skip_bad:
            raise BadSource(f"{place}: {wrong}")
        if wrong:
            first, bad = first or f"{place}: {wrong}", bad + 1
        elif isinstance(question, Question):
            good += 1
            yield question
    if bad:
        print(f"promptimal-train: {spec}: bad rows left out: {bad} of {good + bad}; the first: {first}", file=sys.stderr)
    if not good:
        raise BadSource(f"{spec}: no questions in it")


def _items(spec: str) -> Iterator[Item]:
    name, colon, path = spec.partition(":")
    source = SOURCES.get(name)
    if source is None:
        raise BadSource(f"unknown source {name!r}; a source is one of {', '.join(SOURCES)}, then a colon and a path")
    if colon:
        return source.from_file(Path(path))
    if source.HUB is None:
        raise BadSource(f"{name!r} needs a path: {name}:/path/to/prompts.txt")
    return hub.items(source.HUB, source.from_record)


def _fault(question: Question) -> str:
    """What no source may give, or ""."""
    if not question.text.strip():
        return "the question is empty"
    try:
        "\0".join((question.text, question.answer, question.tests, *question.choices)).encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    return ""
