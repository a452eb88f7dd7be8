"""What a run takes, before it runs: calls, tokens and cost of each stage, from the recipe and the files that are there.

An upper estimate: a file that a stage has not written yet is taken to hold all that could come, and chains are refined through every round. Lengths
of answers are the means of those in the store, or a guess.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from promptimal_trainer.pipeline import instructions, mine, records
from promptimal_trainer.pipeline.recipe import Recipe
from promptimal_trainer.pipeline.records import Attempt, Record
from promptimal_trainer.pipeline.store import Store

_ANSWER = 300
"""Tokens of an answer where none is known yet."""
_FILES = {"propose": "hard.jsonl", "score": "proposals.jsonl", "refine": "scored.jsonl"}


class Line(NamedTuple):
    """The estimate of one stage and role; `calls` in all, `stored` of them paid already."""

    stage: str
    role: str
    calls: int
    stored: int
    tokens: int
    cost: float

    @property
    def left(self) -> int:
        return max(0, self.calls - self.stored)


class _Size(NamedTuple):
    """How many questions, how many of them open, and characters of their texts in all."""

    questions: int = 0
    opens: int = 0
    characters: int = 0


def estimate(recipe: Recipe, out: Path, store: Store | None) -> list[Line]:
    """The stages' estimates. Raises what reading the sources raises."""
    asked = _size(mine.questions(recipe))
    sizes = {"mine": asked}
    for stage, file in _FILES.items():
        sizes[stage] = _size(records.read(out / file)) if (out / file).exists() else sizes["propose" if stage != "propose" else "mine"]
    lengths = _lengths(recipe, store)
    lines = []
    for stage, size in sizes.items():
        lines += [line for role in ("teacher", "answerer", "judge") if (line := _line(stage, role, size, recipe, lengths, store)).calls]
    return lines


def table(lines: list[Line]) -> str:
    """The lines and their sum as a Markdown table."""
    rows = ["| stage | model | calls at most | stored | left | tokens for these | cost |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for line in [
        *lines,
        Line(
            "all", "", sum(x.calls for x in lines), sum(x.stored for x in lines), sum(x.tokens for x in lines), sum(x.cost for x in lines)
        ),
    ]:
        left = sum(x.left for x in lines) if line.stage == "all" else line.left
        rows.append(f"| {line.stage} | {line.role} | {line.calls:,} | {line.stored:,} | {left:,} | {line.tokens:,} | {line.cost:.2f} |")
    return "\n".join(rows)


def _line(stage: str, role: str, size: _Size, recipe: Recipe, lengths: dict[str, int], store: Store | None) -> Line:
    prompts = {"mine": 1, "propose": 0, "score": 1 + recipe.versions, "refine": recipe.versions * recipe.rounds}[stage]
    answers = prompts * (1 if stage == "mine" else recipe.samples)
    per_question = {
        "teacher": {"propose": recipe.versions, "refine": recipe.versions * recipe.rounds}.get(stage, 0),
        "answerer": answers,
        "judge": answers,
    }[role]
    if role == "judge" and recipe.judge is None:
        return Line(stage, role, 0, 0, 0, 0.0)
    model = recipe.model(role)
    calls = per_question * (size.opens if role == "judge" else size.questions)
    mean = size.characters // max(1, size.questions)
    tokens_in = {
        "teacher": _instruction() + 2 * mean // 4 + lengths["answerer"],
        "answerer": mean // 4,
        "judge": mean // 4 + lengths["answerer"] + 50,
    }[role]
    stored = min(calls, (store.counts() if store else {}).get((stage, "chat", model.model), 0))
    left = calls - stored
    return Line(stage, role, calls, stored, left * (tokens_in + lengths[role]), model.cost(left * tokens_in, left * lengths[role]))


def _size(questions: Iterable[Record]) -> _Size:
    count = opens = characters = 0
    for record in questions:
        count, opens, characters = count + 1, opens + (record.question.kind == "open"), characters + len(record.question.text)
    return _Size(count, opens, characters)


def _lengths(recipe: Recipe, store: Store | None) -> dict[str, int]:
    """Mean tokens of each role's answers."""
    spent = store.spent() if store else []
    means = {}
    for role in ("teacher", "answerer", "judge"):
        model = getattr(recipe, role)
        mine_ = [s for s in spent if model and s.kind == "chat" and s.model == model.model]
        calls = sum(s.calls for s in mine_)
        limit = int(model.sampling.get("max_tokens", _ANSWER)) if model else _ANSWER
        means[role] = sum(s.tokens_out for s in mine_) // calls if calls else min(limit, 5 if role == "judge" else _ANSWER)
    return means


def _instruction() -> int:
    """Tokens of the teacher's instruction alone."""
    from promptimal_trainer.sources import Question

    record = Record(Question("", "open", ""), original=Attempt("", 0.0))
    return sum(len(message["content"]) for message in instructions.propose(record)) // 4
