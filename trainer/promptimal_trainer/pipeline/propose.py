"""Propose: the teacher improves each prompt, several times, with the poor answer in view but not the right one."""

from dataclasses import replace

from promptimal_trainer.pipeline import instructions
from promptimal_trainer.pipeline.records import Attempt, Record
from promptimal_trainer.pipeline.work import Answer, Work, all_of


async def one(record: Record, work: Work) -> Record:
    """The record with a chain for each version, each begun with a proposal."""
    messages = instructions.propose(record)
    answers = await all_of(work.chat("teacher", messages, sample=version) for version in range(work.recipe.versions))
    return replace(record, chains=tuple((begun(answer, record),) for answer in answers))


def begun(answer: Answer, record: Record) -> Attempt:
    """The teacher's prompt, not yet scored."""
    return Attempt(answer.value.of(record.question.text), fault="cut off at the token limit" if answer.cut else "")
