"""What a run takes, before it runs: calls, tokens and cost of each stage, by a rehearsal with the answers that are stored.

An upper estimate. Stages are run as they would be, in a folder that is thrown away, and what they ask for in vain is left; a record that lacks an
answer is taken to need all that could come from then on: no answer ends its chains, each is as long as max_tokens allows. Unreadable replies, which
are asked for again, come on top.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from promptimal_trainer.pipeline import instructions, mine, records, run, score
from promptimal_trainer.pipeline.calls import Failed, most_tokens_of
from promptimal_trainer.pipeline.recipe import ROLES, Recipe
from promptimal_trainer.pipeline.records import Attempt, Record
from promptimal_trainer.pipeline.store import Store
from promptimal_trainer.pipeline.work import Answer, Postponed, Work
from promptimal_trainer.sources import Question

ASSUMED = 1000
"""Tokens of an answer where the recipe sets no max_tokens: a guess, the only one here."""


class Line(NamedTuple):
    """The estimate of one stage and role: `calls` in all, `stored` of them paid already; tokens and cost of those that are left."""

    stage: str
    role: str
    calls: int = 0
    stored: int = 0
    tokens: int = 0
    cost: float = 0.0

    @property
    def left(self) -> int:
        return self.calls - self.stored

    def plus(self, calls: int, stored: int, tokens: int = 0, cost: float = 0.0) -> "Line":
        return Line(self.stage, self.role, self.calls + calls, self.stored + stored, self.tokens + tokens, self.cost + cost)


def estimate(recipe: Recipe, out: Path, store: Store | None, alone: str = "") -> list[Line]:
    """The stages' estimates, where one runs `alone` by the file that it reads, if there is one. Raises what reading the sources raises, and Stop
    where the reward model, which names the stored rewards, cannot be loaded."""
    stages = [stage for stage in run.STAGES if stage.name == alone and (out / stage.reads).exists()] or run.STAGES
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_rehearse(stages, recipe, out, Path(folder), store or Store(Path(":memory:"), write=False)))


def table(lines: list[Line]) -> str:
    """The lines and their sum as a Markdown table."""
    total = Line("all", "")
    for line in lines:
        total = total.plus(*line[2:])
    rows = [
        f"| {line.stage} | {line.role} | {line.calls:,} | {line.stored:,} | {line.left:,} | {line.tokens:,} | {line.cost:.2f} |"
        for line in [*lines, total]
    ]
    heads = "| stage | model | calls at most | stored | left | tokens for these | cost |\n| --- | --- | --- | --- | --- | --- | --- |"
    return "\n".join([heads, *rows])


class _Rehearsal(Work):
    """Answers from the store alone; `found` counts them by role. One for all stages: a reward model is loaded once."""

    def __init__(self, recipe: Recipe, store: Store) -> None:
        super().__init__("", recipe, store, run.Nobody(), made_here=False)
        self.found: Counter[str] = Counter()

    async def chat(self, role: str, messages: instructions.Messages, sample: int = 0) -> Answer:
        answer = await super().chat(role, messages, sample)
        self.found[role] += 1
        return answer


async def _rehearse(stages: Iterable[run.Stage], recipe: Recipe, source: Path, folder: Path, store: Store) -> list[Line]:
    """Run the stages in `folder`, the first one from `source`. Records that lack an answer go on from stage to stage in a file of their own."""
    missing = folder / "missing.jsonl"
    missing.touch()
    work = _Rehearsal(recipe, store)
    lines: list[Line] = []
    for stage in stages:
        needs = {role: Line(stage.name, role) for role in ROLES}
        for record in records.read(missing):
            _add(needs, record, recipe, Counter())
        with (folder / stage.writes).open("w", encoding="utf-8") as file, missing.open("a", encoding="utf-8") as rest:
            for record in run.source(stage, recipe, source)():
                work.found = Counter()
                try:
                    file.write(records.line(await stage.one(record, work)))
                    for role, found in work.found.items():
                        needs[role] = needs[role].plus(found, found)
                except (Postponed, Failed):
                    rest.write(records.line(record))
                    _add(needs, record, recipe, work.found)
        if stage.name == "mine":
            mine.keep_hard(folder / stage.writes, folder / "hard.jsonl", recipe)
        source = folder
        lines += [line for line in needs.values() if line.calls]
    return lines


def _add(needs: dict[str, Line], record: Record, recipe: Recipe, found: Counter[str]) -> None:
    """Add what a record may take in a stage, of which some answers were `found`."""
    stage = needs["teacher"].stage
    versions = len(record.chains) or recipe.versions
    prompts = {"mine": 1, "propose": 0, "score": 1 + versions, "refine": versions * recipe.rounds}[stage]
    answers = prompts * (1 if stage == "mine" else recipe.samples)
    calls = {
        "teacher": {"propose": recipe.versions, "refine": versions * recipe.rounds}.get(stage, 0),
        "answerer": answers,
        "judge": answers if recipe.judge and record.question.kind == "open" else 0,
    }
    length = {role: _longest(recipe, role) for role in ROLES}
    question = most_tokens_of(score.ask(record.question.text))
    improved = question + length["teacher"]
    tokens_in = {
        "teacher": _instruction() + question + length["answerer"] + (2 * improved if stage == "refine" else 0),
        "answerer": question if stage == "mine" else improved,
        "judge": most_tokens_of(instructions.judge("", "")) + question + length["answerer"],
    }
    for role in ROLES:
        if calls[role]:
            left = calls[role] - found[role]
            cost = recipe.model(role).cost(left * tokens_in[role], left * length[role])
            needs[role] = needs[role].plus(calls[role], found[role], left * (tokens_in[role] + length[role]), cost)


@cache
def _instruction() -> int:
    """Tokens of what the teacher is told, without prompts and answers."""
    record = Record(Question("", "open", ""), original=Attempt("", 0.0))
    return most_tokens_of(instructions.refine(record, (Attempt("", 0.1), Attempt("", 0.0))))


def _longest(recipe: Recipe, role: str) -> int:
    """Tokens of a role's answer, at most."""
    model = getattr(recipe, role)
    return (model and model.most_tokens) or ASSUMED
