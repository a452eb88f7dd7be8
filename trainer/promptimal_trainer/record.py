"""What a run has on record, read for a report: its card, its log, its evaluation, readers' sheets, and the stages of a data set.

Everything is optional: a directory may hold a training run, an evaluation, a data set, or all of them. What is there must be sound, or BadRecord says
which file is not.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from promptimal_trainer import compare
from promptimal_trainer.errors import TrainError
from promptimal_trainer.pairs import BadPairs, read_lines


class BadRecord(TrainError):
    """A run's record that cannot be used; the message names the file."""


class Example(NamedTuple):
    """A prompt as typed and its rewrite."""

    kind: str
    prompt: str
    rewrite: str


class Sheet(NamedTuple):
    """A comparison that was judged: its directory, wins, ties and losses by kind, all of them last, and who judged."""

    name: str
    rows: list[compare.Row]
    judges: list[str]


class Round(NamedTuple):
    """Mean of the best scores so far of a kind's prompts in a data set: as they were, as first proposed, and after each round; and how many chains."""

    kind: str
    scores: list[float]
    chains: int


@dataclass(frozen=True)
class Record:
    """A run's record; what it has not got is empty."""

    name: str
    card: dict[str, Any]
    log: list[dict[str, Any]]
    evaluation: dict[str, Any]
    sheets: list[Sheet]
    unjudged: list[str]
    """Sheets whose verdicts are not complete: they are left out."""
    rounds: list[Round]
    examples: list[Example]


def read(run: Path) -> Record:
    """The record in a run's directory. Raises BadRecord where there is none, or a file of it is damaged."""
    try:
        sheets, unjudged = _sheets(run)
        record = Record(
            run.resolve().name,
            _object(run / "card.json"),
            _lines(run / "log.jsonl"),
            _object(run / "evaluation.json"),
            sheets,
            unjudged,
            _rounds(run),
            [Example(r.get("kind", ""), r["prompt"], r["rewrite"]) for r in _lines(run / "evaluation" / "rewriter.jsonl")],
        )
    except BadPairs as error:
        raise BadRecord(str(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise BadRecord(f"{run}: its record has another shape than expected: {error!r}") from error
    if not (record.card or record.evaluation or record.sheets or record.rounds):
        raise BadRecord(f"{run}: no record of a run there: no card.json, evaluation.json, judged sheet or scored.jsonl")
    return record


def _sheets(run: Path) -> tuple[list[Sheet], list[str]]:
    """The sheets that were judged, and the names of those that were in part."""
    sheets, unjudged = [], []
    for place in (key.parent for key in sorted(run.rglob("key.jsonl")) if (key.parent / "verdicts.jsonl").exists()):
        name = str(place.relative_to(run))
        try:
            sheets.append(Sheet(name, compare.tally(place)[0], compare.judges(place)))
        except compare.Unjudged:
            unjudged.append(name)
    return sheets, unjudged


def _object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRecord(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BadRecord(f"{path}: not a JSON object")
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    return [record for _, record in read_lines(path)] if path.exists() else []


def _rounds(run: Path) -> list[Round]:
    """Scores by round from the last stage that is there: of each chain the best so far, which at first is that of the prompt as typed."""
    path = next((p for p in (run / "refined.jsonl", run / "scored.jsonl") if p.exists()), None)
    chains: dict[str, list[list[float]]] = defaultdict(list)
    for record in _lines(path) if path else []:
        before: float | None = (record.get("original") or record).get("score")
        if before is None:
            continue
        for chain in filter(None, record.get("chains", ())):
            best = [before]
            for attempt in chain:
                score = attempt.get("score")
                best.append(best[-1] if score is None else max(best[-1], score))
            chains[record["question"]["kind"]].append(best)
    rounds = []
    for kind, scores in chains.items():
        length = max(map(len, scores))
        full = [row + row[-1:] * (length - len(row)) for row in scores]
        rounds.append(Round(kind, [fmean(column) for column in zip(*full, strict=True)], len(full)))
    return rounds
