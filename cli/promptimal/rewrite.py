"""A prompt in, its rewrite out: the request kept, and the asks that fit it.

For each prompt the model reads the view of it (see `passage`) and says whether the request stands as typed or needs other words. Its
words are taken where `fidelity` finds nothing lost and nothing new in them. Then it chooses asks from the bank, or none.
"""

import random
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import exp, log
from typing import Any, NamedTuple

from promptimal import chat, fidelity, passage
from promptimal.asks import EXPANSIONS, Bank, Choice, choose, read_bank
from promptimal.engine import BadModel, Engine, Feed, Sequences
from promptimal.language import is_english

WIDTH = EXPANSIONS + 21
"""Sequences that one rewrite may hold open: branching points, eight choices, eight branches in a batch, and a few of its own."""

CONTEXT = 1536
"""Tokens that one rewrite may need: the view, the request in other words, and the branches of two searches."""

_MAX_VIEW_TOKENS = 400

SHORTLIST = 8
"""Asks that are judged for a prompt: those of the greatest likelihood."""


class _Weights(NamedTuple):
    bias: float
    verdict: float
    likelihood: float
    silence: float


WEIGHTS = _Weights(bias=1.378, verdict=0.542, likelihood=0.636, silence=-0.353)
"""Of a logistic regression on readers' labels, see bench/calibrate.py and trainer/LOG.md."""

KEEP_QUIET = 0.36
"""An ask less sure to help than this is not added."""


class _Judged(NamedTuple):
    ask: str
    value: float


@dataclass(frozen=True)
class Rewrite:
    """A rewrite. `text` is what to send; it is `request` and `asks` joined."""

    prompt: str
    text: str
    request: str
    asks: tuple[str, ...] = ()
    score: float = 0.0
    """How sure the model is that the ask helps, 0 where none was added."""
    kept: bool = True
    """Whether the request stands in the person's own words."""
    faults: tuple[str, ...] = ()
    """Why the model's words for the request were not taken, if they were not."""


class Rewriter:
    """Rewrites prompts with one loaded model."""

    def __init__(
        self,
        engine: Engine,
        template: chat.Template = chat.CHATML,
        bank: list[str] | None = None,
        seed: int | None = None,
    ) -> None:
        self.engine, self.seed = engine, seed
        self.bank = Bank(engine, read_bank() if bank is None else bank)
        self._before = engine.tokenize(template.before, special=True)
        self._after = engine.tokenize(template.after, special=True)
        self._keep = engine.tokenize(chat.KEEP)
        self._newline = engine.tokenize("\n")
        (self._unfit,) = engine.tokenize(chat.UNFIT)
        ends = engine.tokenize(template.end, special=True)
        if len(ends) != 1:
            raise BadModel(f"{engine.path} does not know {template.end}: it was not made for this prompt format")
        self._end = ends[0]

    def rewrite(self, prompt: str, n: int = 1, show: Callable[[str], None] | None = None) -> list[Rewrite]:
        """Up to `n` different rewrites of a prompt, best first; always at least one.

        `show` gets the request as soon as it stands; every rewrite of this prompt begins with it.
        """
        rewrites: list[Rewrite] = self.engine.one(lambda sequences: self._task(sequences, prompt, n, show))
        return rewrites

    def rewrite_all(self, prompts: Iterable[str], n: int = 1) -> Iterator[list[Rewrite]]:
        """Rewrites of many prompts, in their order, as they are ready."""
        waiting: dict[int, list[Rewrite]] = {}
        following = 0
        tasks = (partial(self._task, prompt=prompt, n=n) for prompt in prompts)
        for number, rewrites in self.engine.run(tasks):
            waiting[number] = rewrites
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def _task(
        self, sequences: Sequences, prompt: str, n: int, show: Callable[[str], None] | None = None
    ) -> Generator[list[Feed], Any, list[Rewrite]]:
        segments = passage.split(prompt)
        view = passage.view(segments)
        tidied = chat.tidy(prompt)
        if not view or not is_english(view) or forbids_asks(view):
            typed = chat.trim(prompt)
            return [Rewrite(prompt, typed, typed)]
        read = self.engine.tokenize(view)
        if len(read) > _MAX_VIEW_TOKENS:  # digits and symbols may take a token each
            half = _MAX_VIEW_TOKENS // 2
            read = [*read[:half], *self.engine.tokenize(" […] "), *read[-half:]]
        root = sequences.open()
        rows = yield [Feed(root, [*self._before, *read, *self._after])]
        row = rows[0][-1]
        request, sequence = tidied, sequences.fork(root)
        faults: tuple[str, ...] = ()
        may_reword = (
            len(segments) == 1
            and not passage.is_material(segments[0])
            and "\n" not in prompt.strip()
            and len(prompt) <= chat.MAX_OWN_WORDS
            and len(prompt.split()) > 2
        )
        first_line = self._keep
        if may_reword and int(row.argmax()) != self._keep[0]:
            own = yield from self._own_words(sequences, root, row, len(view))
            faults = tuple(str(f) for f in fidelity.check(prompt.strip(), own, known=self._known, own_words=True))
            if own and not faults:
                request, first_line = own, self.engine.tokenize(own)
        if show:
            show(request.rstrip())
        rows = yield [Feed(sequence, [*first_line, *self._newline])]
        row = rows[0][-1]
        silence = exp(float(row[self._end]))
        found = yield from choose(sequences, self.bank.trie, sequence, row, SHORTLIST)
        choices = [self._judged(choice, silence) for choice in found if not is_redundant(choice.ask, view)]
        choices = sorted(choices, key=lambda c: -c.value)
        if self.seed is not None:
            choices = self._drawn(choices)

        def made(ask: str, score: float) -> Rewrite:
            return Rewrite(prompt, chat.join(request, ask), request, (ask,) if ask else (), score, request == tidied, faults)

        rewrites = [made(c.ask, c.value) for c in choices[:n]]
        if not choices or choices[0].value < KEEP_QUIET:
            rewrites.insert(0, made("", 0.0))
        return rewrites[:n]

    def _judged(self, choice: Choice, silence: float) -> "_Judged":
        """How sure the model is that a reader would find the answer better with this ask: from its verdict, the ask's and silence's likelihood."""
        verdict = float(choice.row[self._end] - choice.row[self._unfit])
        w = WEIGHTS
        return _Judged(choice.ask, 1 / (1 + exp(-(w.bias + w.verdict * verdict + w.likelihood * choice.likelihood + w.silence * silence))))

    def _own_words(self, sequences: Sequences, root: int, row: Any, size: int) -> Generator[list[Feed], Any, str]:
        """The request as the model would put it: one line, decoded greedily, at most twice as long as the request."""
        sequence = sequences.fork(root)
        written = b""
        while len(written) < 2 * size + 40:
            token = int(row.argmax())
            piece = self.engine.piece(token)
            if token == self._end or not piece or b"\n" in piece:
                break
            written += piece
            rows = yield [Feed(sequence, [token])]
            row = rows[0][-1]
        sequences.close(sequence)
        return written.decode(errors="replace").strip()

    def _drawn(self, choices: list[_Judged]) -> list[_Judged]:
        """The choices in an order drawn by their odds (Gumbel, 1954): good ones tend to stand first."""
        draw = random.Random(self.seed)
        return sorted(choices, key=lambda c: log(-log(1 - draw.random())) - log(c.value / (1 - c.value)))

    def _known(self, word: str) -> bool:
        """Whether a word is spelled as the model has often seen it: then it is one token."""
        return len(self.engine.tokenize(" " + word)) == 1


_FIXED_FORM = re.compile(
    r"\b(?:answer|reply|respond|say)\b[^.\n]{0,30}\b(?:only|just|nothing but|yes or no|one word|a single word)\b(?! (?:one|two|three|if|when))"
    r"|\b(?:just|only) (?:answer|reply|respond|say|print|output|return|give(?: me)? the|tell me (?:yes|which|the)|the (?:answer|number|name|result|word|code|letter))\b"
    r"|\byes or no(?: only| please)?[.?!]*$|\b(?:one|single)[- ]word\b(?: answer|:|$)|\b(?:in|with) (?:one|a single) word\b|\bone word only\b"
    r"|\bno (?:explanations?|preamble|commentary|other text)\b|\bwithout (?:any )?(?:explanations?|comments?|commentary)\b|\b(?:and )?nothing (?:else|more)\b|\banswer only\b",
    re.I | re.M,
)
_COMMAND = re.compile(
    r"<\|[^|>\n]*\|>|\[/?INST\]|<</?SYS>>|\b(?:ignore|disregard|override)\b.{0,40}\b(?:instructions?|prompts?|above|previous|rules|everything)\b|\bforget (?:everything|all|your|the above|previous instructions)\b"
    r"|\b(?:your|reveal|print|show|repeat|output|leak)\b.{0,25}\b(?:system|developer|hidden|initial) (?:prompt|message|instructions?)\b|\bprompt (?:rewriter|improver|optimi[sz]er)\b"
    r"|^\s*#{1,3} ?(?:system|assistant|user|new task)\b|^\s*(?:system|assistant) ?:|\bjailbreak\b|(?-i:\bDAN\b)|\bimproving my prompt",
    re.I | re.M,
)


def forbids_asks(view: str) -> bool:
    """Whether a prompt fixes its answer's form itself, or talks to the rewriter instead of asking: then nothing is added."""
    return bool(_FIXED_FORM.search(view) or _COMMAND.search(view))


def is_redundant(ask: str, view: str) -> bool:
    """Whether most of what an ask says has been said already."""
    said = {i.form for i in fidelity.items(view) if i.kind == "word"}
    words = {i.form for i in fidelity.items(ask) if i.kind == "word"}
    return bool(words) and len(words & said) >= 0.6 * len(words)
