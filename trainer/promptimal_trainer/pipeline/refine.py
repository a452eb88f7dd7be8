"""Refine: prompt, answer and score go back to the teacher, several rounds; every attempt is kept, the best one carried on."""

from dataclasses import replace

from promptimal_trainer.pipeline import instructions, score
from promptimal_trainer.pipeline.propose import begun
from promptimal_trainer.pipeline.records import Attempt, Record, best
from promptimal_trainer.pipeline.work import Work, all_of


async def one(record: Record, work: Work) -> Record:
    """The record with each chain grown by the rounds' attempts."""
    chains = await all_of(_refined(record, number, work) for number in range(len(record.chains)))
    return replace(record, chains=tuple(chains))


async def _refined(record: Record, number: int, work: Work) -> tuple[Attempt, ...]:
    chain = record.chains[number]
    for round_ in range(work.recipe.rounds):
        if _full_marks(record, chain):
            break
        answer = await work.chat(
            "teacher", instructions.refine(record, chain), sample=1000 * number + round_
        )  # the same whatever the number of rounds
        chain = (*chain, await score.attempt(record.question, begun(answer, record), work))
    return chain


def _full_marks(record: Record, chain: tuple[Attempt, ...]) -> bool:
    """Whether nothing is left to gain: every answer right."""
    carried = best(chain)
    return record.question.kind != "open" and carried is not None and carried.score == 1
