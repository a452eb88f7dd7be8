"""The one shape in which questions go through the stages: a line of JSON each, more on it after every stage.

hard.jsonl        the question, what the answerer said, the score of that
proposals.jsonl   and the chains, each begun with a proposal
scored.jsonl      and the scores of the prompt as it was and of each proposal
refined.jsonl     and the further attempts of each chain
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from promptimal_trainer.pairs import BadPairs, read_lines
from promptimal_trainer.sources import Question


@dataclass(frozen=True)
class Attempt:
    """A prompt, and how well it was answered.

    `score` is a share of right answers (choice, code) or a mean reward (open), None before scoring and where `fault` says why it gets
    none. `answer` is what the answerer said first.
    """

    prompt: str
    score: float | None = None
    answer: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Record:
    """A question and what is known of it so far."""

    question: Question
    answer: str = ""
    score: float | None = None
    original: Attempt | None = None
    chains: tuple[tuple[Attempt, ...], ...] = ()


def best(chain: tuple[Attempt, ...]) -> Attempt | None:
    """The attempt that scored highest, the earliest of equals; None where none has a score."""
    scored = [attempt for attempt in chain if attempt.score is not None]
    return max(scored, key=lambda attempt: attempt.score or 0.0) if scored else None


def read(path: Path) -> Iterator[Record]:
    """The records of a stage's file, one at a time. Raises BadPairs, which names file and line, where one has another shape."""
    for place, values in read_lines(path):
        yield _record(values, place)


def line(record: Record) -> str:
    """A record as a line of JSON, without what is empty."""
    return json.dumps(_full(asdict(record)), ensure_ascii=False) + "\n"


def _record(values: dict[str, Any], place: str) -> Record:
    try:
        return Record(
            _question(values["question"]),
            values.get("answer", ""),
            values.get("score"),
            Attempt(**values["original"]) if values.get("original") else None,
            tuple(tuple(Attempt(**attempt) for attempt in chain) for chain in values.get("chains", ())),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BadPairs(f"{place}: no record of a stage: {error}") from error


def _question(values: dict[str, Any]) -> Question:
    known = {field.name for field in fields(Question)}
    given = {name: value for name, value in values.items() if name in known}
    return Question(**{**given, "choices": tuple(given.get("choices", ()))})


def _full(value: Any) -> Any:
    """A nested value without the fields that are empty. A score of 0 is not."""
    if isinstance(value, dict):
        return {k: _full(v) for k, v in value.items() if v is not None and v != "" and v != ()}
    return [_full(v) for v in value] if isinstance(value, tuple | list) else value
