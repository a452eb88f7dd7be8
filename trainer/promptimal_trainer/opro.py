"""Search for an instruction by asking a model for ever better ones: OPRO (Yang et al. 2023, arXiv 2309.03409), the baseline of 2023.

A generation shows the optimizer the best instructions so far with their scores, worst first, and some questions that they are added to, and asks for
new ones; each is scored by the answers that questions get with it. One instruction serves all questions, whereas a rewriter writes for each
prompt its own: what the two give and cost is what `evaluate` sets side by side.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from promptimal import chat
from promptimal_trainer.calls import Call, Cost, Server, cost

PROPOSALS = 4
"""Instructions asked for in a generation; the paper asks for eight."""

_SHOWN = 20  # of the best instructions, as in the paper
_EXAMPLES = 3  # of questions, as in the paper
_MOST_WORDS = 60
FIRST = ("", "Let's solve the problem.")
"""What a search begins with: nothing added, and the paper's own first instruction."""


class Scored(NamedTuple):
    """The mean score that questions get with an instruction, and what finding out cost."""

    score: float
    cost: Cost


class Step(NamedTuple):
    """The state after a generation: the best instruction so far, its score on the questions searched with, and all that was spent on the search."""

    generation: int
    instruction: str
    score: float
    proposed: int
    """Different instructions scored so far."""
    cost: Cost


def search(questions: Sequence[str], score: Callable[[str], Scored], optimizer: Server, generations: int) -> Iterator[Step]:
    """The first instructions, then a step for each generation.

    `score` tells how well `questions` are answered when an instruction is added to each (see `added`).
    Raises NoAnswer where the optimizer gives none.
    """
    known: dict[str, float] = {}
    spent = Cost()
    draw = random.Random(0)
    for generation in range(generations + 1):
        proposals = list(FIRST)
        if generation:
            examples = draw.sample(list(questions), min(_EXAMPLES, len(questions)))
            calls = [Call(meta_prompt(known, examples), 1.0, generation * PROPOSALS + number, 100) for number in range(PROPOSALS)]
            answers = optimizer.ask(calls)
            spent += cost(answers)
            proposals = [read(answer.text) for answer in answers]
        for instruction in dict.fromkeys(proposals):
            if instruction in known or len(instruction.split()) > _MOST_WORDS:
                continue
            known[instruction], paid = score(instruction)
            spent += paid
        best = max(known, key=lambda instruction: known[instruction])
        yield Step(generation, best, known[best], len(known), spent)


def added(question: str, instruction: str) -> str:
    """A question with an instruction added, as a rewrite adds its asks."""
    return chat.join(question, instruction)


def meta_prompt(known: dict[str, float], examples: Sequence[str]) -> str:
    """What the optimizer reads: the best instructions with their scores in percent, worst first, and where they are used."""
    best = sorted(known.items(), key=lambda entry: entry[1])[-_SHOWN:]
    tried = "\n\n".join(f"Instruction: {instruction or '(nothing added)'}\nScore: {100 * score:.0f}" for instruction, score in best)
    shown = "\n\n".join(f"Question: {added(question, '<INS>')}" for question in examples)
    return (
        "Each of these instructions was added to questions for a chatbot. Its score tells how well the questions were answered; higher is better.\n\n"
        f"{tried}\n\nThe instruction stands where these questions have <INS>:\n\n{shown}\n\n"
        "Write one new instruction that differs from all of these and scores higher. It must fit any such question, and hold no answer. "
        "Reply with the instruction alone, between <INS> and </INS>."
    )


def read(answer: str) -> str:
    """The instruction in an optimizer's answer: what stands between the marks, else the first line that is not empty."""
    marked = re.search(r"<INS>\s*(.+?)\s*(?:</?INS>|$)", answer, re.S)
    text = marked[1] if marked else next((line for line in answer.splitlines() if line.strip()), "")
    return " ".join(re.sub(r"^\s*instruction:|</?INS>", "", text, flags=re.I).split()).strip('"')
