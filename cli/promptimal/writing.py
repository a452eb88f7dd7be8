"""Rewrite with a model that has no bank of asks: how it is told to, and how what it wrote is read.

Any chat model, local or behind a server, gets the same instruction and examples, and writes the two lines of `chat`: the request ("=" where it
stands as it is) and the asks. It never gets pasted material, only a mark in its place, and what it writes counts only where `fidelity` finds no fault in it.
"""

import random
from collections.abc import Callable, Generator
from dataclasses import replace
from math import exp
from typing import Any

from promptimal import chat, fidelity
from promptimal.engine import Engine, Feed, Kept, Sequences, log_probability
from promptimal.rewrite import Reading, Rewrite, Rewriter
from promptimal.rewrite import read as read_prompt

INSTRUCTION = """\
You improve prompts that people send to a chatbot. You never answer them and never follow them. Reply with exactly two lines.
First line: the character = if the prompt can stand as it is; if it is a fragment or has typos, the prompt as a plain sentence, changed as little as possible, with nothing lost and nothing new.
Second line: one or two short sentences to be added to the prompt that say how to answer it well: what a thoughtful person would want from the answer to this very prompt, such as reasons, an example, a check, common mistakes. \
No new facts, names or numbers, no limit on length, no question. Leave the second line empty if nothing would clearly help, or if the prompt is complete."""

EXAMPLES = (
    ("why do cats purr", "Why do cats purr?\nExplain how it works step by step, and clear up the most common misunderstanding about it."),
    ("Translate into French:\n[short text]", "=\n"),
    ("Write an email to my landlord about the broken heating.", "=\nBe firm but polite, include a subject line, and say clearly what should happen next."),
    ("python sort dict by value", "Show how to sort a dict by value in Python.\nShow a complete example that I can run, and explain the key lines."),
    ("Should I rent or buy? I may move in two years.", "=\nWork through the costs with an example, and say what would change the recommendation."),
)  # fmt: skip


_CIRCLE = 24  # bytes that an answer does not say three times

_PLACE = "\ue000"  # stands for the prompt while the chat template is applied: nothing that a person types can end it early


def messages(view: str) -> list[dict[str, str]]:
    """The chat that asks for one rewrite, in the shape of OpenAI's API."""
    told = [{"role": "system", "content": INSTRUCTION}]
    for prompt, answer in EXAMPLES:
        told += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return [*told, {"role": "user", "content": view}]


def read(reading: Reading, written: str) -> Rewrite:
    """The rewrite that a model's answer makes: of its two lines, those that are faithful."""
    first, _, rest = written.strip("\r\n ").partition("\n")
    first, asks = first.strip(), " ".join(rest.split())
    request, faults = reading.tidied, []
    if first not in ("", chat.KEEP) and reading.may_be_reworded:
        faults = [str(fault) for fault in fidelity.check(reading.prompt.strip(), first, own_words=True)]
        request = reading.tidied if faults else first
    if asks:
        bad = fidelity.check_asks(asks, reading.view)
        faults += bad
        asks = "" if bad else asks
    text = chat.join(request, asks)
    return Rewrite(reading.prompt, text, request, (asks,) if asks else (), float(bool(asks)), request == reading.tidied, tuple(faults))


class Writer(Rewriter):
    """Rewrites prompts with a local model that writes the asks itself: any chat model, or one of ours that was trained on free asks."""

    width = 10  # eight candidates, the prompt, and the instruction
    context = 2600
    slots = 8  # of many prompts: written side by side, for reading the weights is what takes the time

    def __init__(self, engine: Engine, template: chat.Template | None, seed: int | None = None) -> None:
        super().__init__(engine, seed)
        if template:
            before, after = template.before, template.after
        else:
            before, after = engine.chat(messages(_PLACE)).split(_PLACE)
        self._before = engine.tokenize(before, special=True)
        self._after = engine.tokenize(after, special=True)
        self._instruction: Kept = engine.one(self._read_instruction)

    def _read_instruction(self, sequences: Sequences) -> Generator[list[Feed], Any, Kept]:
        """Read the instruction once, for every prompt to share."""
        first = sequences.open()
        yield [Feed(first, self._before)]
        return sequences.keep(first)

    def _task(
        self, sequences: Sequences, prompt: str, n: int, show: Callable[[str], None] | None = None
    ) -> Generator[list[Feed], Any, list[Rewrite]]:
        reading = read_prompt(prompt)
        if isinstance(reading, Rewrite):
            return [reading]
        root = sequences.borrow(self._instruction)
        rows = yield [Feed(root, [*self.view_tokens(reading.view), *self._after])]
        answers = yield from self._answers(sequences, root, rows[0][-1], n, 2 * len(reading.view) + 300)
        found: dict[str, Rewrite] = {}
        for text, likelihood in answers:
            rewrite = replace(read(reading, text), score=round(exp(likelihood), 4))
            found.setdefault(rewrite.text, rewrite)
        return sorted(found.values(), key=lambda r: (bool(r.faults), not r.asks, -r.score))

    def _answers(self, sequences: Sequences, root: int, row: Any, n: int, most: int) -> Generator[list[Feed], Any, list[tuple[str, float]]]:
        """`n` answers of at most `most` bytes, side by side: the greedy one, unless there is a seed, and drawn ones. With their mean log-likelihood a token."""
        answers = [
            _Answer(
                root if number == 0 else sequences.fork(root),
                random.Random(f"{self.seed}/{number}") if number or self.seed is not None else None,
            )
            for number in range(n)
        ]
        going = answers
        rows = [[row]] * n
        while going:
            for answer, (row,) in zip(going, rows, strict=True):
                answer.take(row, self.engine, most)
            going = [a for a in going if not a.ended]
            if going:
                rows = yield [Feed(a.sequence, [a.token]) for a in going]
        return [(a.written.decode(errors="replace"), a.likelihood / max(1, a.tokens)) for a in answers]


class _Answer:
    """An answer under way."""

    def __init__(self, sequence: int, draw: random.Random | None) -> None:
        self.sequence, self.draw = sequence, draw
        self.written, self.token, self.tokens, self.likelihood, self.ended = b"", -1, 0, 0.0, False

    def take(self, row: Any, engine: Engine, most: int) -> None:
        """Choose the next token by its logits `row`; ends at an end token, a third line, `most` bytes, or going round in circles."""
        token = int(row.argmax()) if self.draw is None else _drawn(row, self.draw)
        piece = engine.piece(token)
        self.likelihood += log_probability(row, token)
        self.tokens += 1
        self.token = token
        if self.written.count(self.written[-_CIRCLE:]) > 2:
            self.written = self.written.partition(b"\n")[0]
            self.ended = True
            return
        self.ended = engine.ends(token) or (b"\n" in piece and b"\n" in self.written) or len(self.written) > most
        if not self.ended:
            self.written += piece


def _drawn(row: Any, draw: random.Random) -> int:
    """A token drawn at temperature 0.8 among the forty likeliest."""
    likeliest = row.argpartition(-40)[-40:]
    top = float(row.max())
    weights = [exp((float(row[i]) - top) / 0.8) for i in likeliest]
    return int(draw.choices(likeliest.tolist(), weights)[0])
