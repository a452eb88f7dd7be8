"""Score: how well a prompt is answered, the mean over several answers.

A choice counts 1 where the right letter is chosen, code 1 where it passes its tests, an open answer what the reward model (or the judge) says.
Open answers are scored against the prompt as the person typed it, whatever prompt led to them: that is whom they should serve, and so the
scores of two prompts can be compared.
"""

from dataclasses import replace

from promptimal_trainer.pipeline import instructions
from promptimal_trainer.pipeline.instructions import Messages
from promptimal_trainer.pipeline.records import Attempt, Record
from promptimal_trainer.pipeline.work import Work, all_of
from promptimal_trainer.sources import Question


async def one(record: Record, work: Work) -> Record:
    """The record with scores for the prompt as it was and for each proposal."""
    firsts = [chain[0] for chain in record.chains]
    original, *scored = await all_of(
        [
            _answered(record.question, Attempt(record.question.text), work),
            *(attempt(record.question, first, work) for first in firsts),
        ]
    )
    return replace(record, original=original, chains=tuple((first,) for first in scored))


async def attempt(question: Question, proposed: Attempt, work: Work) -> Attempt:
    """A proposed prompt with its score; with none, and the reason, where it is faulty or gives the answer away."""
    from promptimal_trainer.leak import leaks

    if proposed.fault:
        return proposed
    if leak := leaks(proposed.prompt, question):
        return replace(proposed, fault=leak)
    return await _answered(question, proposed, work)


async def grade(question: Question, answer: str, work: Work) -> float:
    """The score of one answer."""
    if question.kind == "choice":
        from promptimal_trainer.answers import chosen

        return float(chosen(answer, question.choices) == question.answer)
    if question.kind == "code":
        from promptimal_trainer.sandbox import program

        return float(await work.passes(program(question.text, answer), question))
    if work.recipe.judge:
        return float((await work.chat("judge", instructions.judge(question.text, answer))).value)
    return await work.reward(question.text, answer)


def ask(prompt: str) -> Messages:
    """A prompt as a chatbot gets it."""
    return [{"role": "user", "content": prompt}]


async def _answered(question: Question, proposed: Attempt, work: Work) -> Attempt:
    async def sample(number: int) -> tuple[str, float]:
        answer = (await work.chat("answerer", ask(proposed.prompt), sample=number)).text
        return answer, await grade(question, answer, work)

    samples = await all_of(sample(number) for number in range(work.recipe.samples))
    mean = sum(score for _, score in samples) / len(samples)
    return replace(proposed, score=round(mean, 6), answer=samples[0][0])
