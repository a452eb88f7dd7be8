"""What the teacher and the judge are told, and how their replies are read. Follows REWRITING's one rule: what was given is kept."""

import re
from typing import NamedTuple

from promptimal import chat, fidelity
from promptimal_trainer.pipeline.records import Attempt, Record, best

_IMPROVE = """\
A person typed a prompt for a chatbot. Improve it, so that the chatbot answers it better: say what to add to it. Write one to three short sentences that \
say how to answer, what a thoughtful person would add for this kind of prompt. They come after the prompt, which stays as it was typed.
Do not answer the prompt. Do not give away or hint at the answer or any step of the solution. Do not add facts. Do not limit the length.
Write these sentences, and nothing else, between <add> and </add>.
Only if the prompt itself must be put in other words to be understood, write all of the improved prompt between <prompt> and </prompt> instead. Keep \
everything the person gave: every name, number, unit, quotation, link, line of code, placeholder, list item, answer option, negation and condition, and any \
pasted text, word for word, and the language."""

_WANTED = "Say how to answer the prompt better: one to three short sentences, each beginning with a verb, between <add> and </add>."

_JUDGE = """\
Rate how well the answer serves the person who typed the prompt, from 1 (useless) to 10 (could not be better). Reply with the number alone.

Prompt:
{prompt}

Answer:
{answer}"""

_EXAMPLES = (
    ("how do tides work", "The moon.", "Explain the mechanism step by step, and clear up the most common misunderstanding about it."),
    (
        "Which of these metals is liquid at room temperature?\n\nA. Iron\nB. Mercury\nC. Tin\nD. Zinc",
        "C",
        "Go through the options one by one, then name the best one.",
    ),
    ("Name a poem about rain and tell what it says: Rain by Edward Thomas.", "It rains.", "Use what the poem says, line by line, and quote the words that show it."),
)  # fmt: skip
"""A prompt, a poor answer, and what the teacher should add: a small teacher answers the prompt unless it has seen how it is done."""


class Improvement(NamedTuple):
    """What a teacher wrote: what to add to the prompt as typed, or all of a new one."""

    text: str
    is_addition: bool

    def of(self, prompt: str) -> str:
        """The improved prompt."""
        return chat.join(prompt, self.text) if self.is_addition else self.text


Messages = list[dict[str, str]]


def propose(record: Record) -> Messages:
    """Ask for an improved prompt, with the poor answer in view."""
    return [*_shown(), *_user(_asked(record.question.text, record.answer))]


def refine(record: Record, chain: tuple[Attempt, ...]) -> Messages:
    """Ask for a better prompt than the best one so far, with its answer and score in view, and the last attempt where that was worse."""
    carried, last, original = best(chain), chain[-1], record.original
    parts = [_block("The prompt as typed", record.question.text)]
    if original and original.score is not None:
        parts.append(f"Its answers score {original.score:g}; higher is better.")
    if carried:
        parts += [
            _block("The best prompt so far", carried.prompt),
            f"Its answers score {carried.score:g}.",
            _block("One of them", carried.answer),
        ]
    if last is not carried:
        why = f"it scored {last.score:g}" if last.score is not None else f"it cannot be used: {last.fault}"
        parts.append(_block(f"Your last attempt was worse: {why}. Do not repeat it", last.prompt))
    return [*_shown(), *_user("\n\n".join([*parts, f"It should score higher. {_WANTED}"]))]


def judge(prompt: str, answer: str) -> Messages:
    """Ask for a mark."""
    return _user(_JUDGE.format(prompt=prompt, answer=answer))


def read_improvement(reply: str) -> Improvement:
    """What a teacher's reply says to add, or its prompt. Raises ValueError where there is neither.

    A small teacher forgets the marks: then what only demands is to be added, and anything else is the prompt, but for a title, and quotation marks around it.
    """
    marked = re.search(r"<(add|prompt)>(.*?)(?:</\1>|\Z)", reply, re.S)
    text = (marked[2] if marked else re.sub(r"</?(?:add|prompt)>", "", reply)).strip()
    if not marked:
        text = re.sub(
            r"\A\W*(?:here (?:is|'s) )?(?:the |an |your )?(?:improved|better|new) (?:version of the )?prompt\W*?:[\s*_]*",
            "",
            text,
            flags=re.I,
        )
        text = re.sub(r"\A([\"“])([^\"“”]*)[\"”]\Z", r"\2", text).strip()
    if not text:
        raise ValueError("no prompt in the reply")
    return Improvement(text, marked[1] == "add" if marked else not fidelity.check_asks(text, ""))


def read_mark(reply: str) -> float:
    """The mark in a judge's reply, 0.1 to 1. Raises ValueError where there is none."""
    number = re.search(r"(?<![\d.])(10|[1-9])(?:\.0)?(?![\d.]*\d)", reply)
    if not number:
        raise ValueError(f"no mark from 1 to 10 in the reply: {reply[:40]!r}")
    return int(number[1]) / 10


def read_answer(reply: str) -> str:
    """An answer as it is. Raises ValueError where it is blank."""
    if not reply.strip():
        raise ValueError("no text in the reply")
    return reply


READERS = {"teacher": read_improvement, "judge": read_mark, "answerer": read_answer}
"""How the replies of each role are read; a reply that cannot be read is no answer."""


def _shown() -> Messages:
    """The instruction and the examples, as turns of a chat."""
    turns = []
    for number, (prompt, answer, added) in enumerate(_EXAMPLES):
        turns += _user((f"{_IMPROVE}\n\n" if number == 0 else "") + _asked(prompt, answer))
        turns.append({"role": "assistant", "content": f"<add>{added}</add>"})
    return turns


def _asked(prompt: str, answer: str) -> str:
    return f"{_block('The prompt', prompt)}\n\n{_block('A poor answer to it, of the chatbot', answer)}\n\n{_WANTED}"


def _block(title: str, text: str) -> str:
    return f"{title}:\n\n{text}"


def _user(text: str) -> Messages:
    return [{"role": "user", "content": text}]
