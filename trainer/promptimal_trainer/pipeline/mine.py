"""Mine: ask the answerer every question, keep what it answers wrong (choices, code) or worst (open ones).

Writes `answered.jsonl`, every question with its answer and score, then `hard.jsonl`, what was kept, in the same order.
"""

import hashlib
import heapq
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from promptimal_trainer import sources
from promptimal_trainer.pipeline import records, score
from promptimal_trainer.pipeline.recipe import BadRecipe, Recipe
from promptimal_trainer.pipeline.records import Record
from promptimal_trainer.pipeline.work import Work
from promptimal_trainer.sources import Question
from promptimal_trainer.whole_file import whole


async def one(record: Record, work: Work) -> Record:
    """The question with the answerer's answer and its score."""
    question = record.question
    answer = (await work.chat("answerer", score.ask(question.text))).text
    return replace(record, answer=answer, score=await score.grade(question, answer, work))


def questions(recipe: Recipe) -> Iterator[Record]:
    """The questions of the recipe's sources, in their order; with `per_source`, those of the smallest hashes of each.

    Raises BadSource, and BadRecipe where an open question could not be scored.
    """
    for source in recipe.sources:
        for question in _drawn(source, recipe.per_source):
            if question.kind == "open" and not (recipe.reward or recipe.judge):
                raise BadRecipe(f"{source} has open questions: give reward or [judge] in the recipe, to score their answers")
            yield Record(question)


def keep_hard(answered: Path, hard: Path, recipe: Recipe) -> int:
    """Write the questions that were answered wrong or worst; how many."""
    opens = sorted(r.score for r in records.read(answered) if r.question.kind == "open" and r.score is not None)
    wanted = round(recipe.worst * len(opens))
    bar = opens[wanted - 1] if wanted else -math.inf
    at_the_bar = wanted - sum(score < bar for score in opens)  # of equals, the first ones
    kept = 0
    with whole(hard) as file:
        for record in records.read(answered):
            if record.score is None:
                continue
            if record.question.kind == "open":
                at_the_bar -= record.score == bar
                keep = record.score < bar or (record.score == bar and at_the_bar >= 0)
            else:
                keep = record.score < 1
            if keep:
                file.write(records.line(record))
                kept += 1
    return kept


def _drawn(source: str, count: int) -> Iterator[Question]:
    questions = sources.read(source)
    if not count:
        yield from questions
        return
    drawn = heapq.nsmallest(count, enumerate(questions), key=lambda numbered: hashlib.sha256(numbered[1].id.encode()).digest())
    yield from (question for _, question in sorted(drawn, key=lambda numbered: numbered[0]))
