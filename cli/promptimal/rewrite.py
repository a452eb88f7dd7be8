"""A prompt in, its rewrite out: the request kept, and the ask that fits it best.

For each prompt the model reads the view of it (see `passage`) once. That tells whether the request stands as typed or needs other words, whose
decoding is all that is left to do (they are taken where `fidelity` finds nothing lost and nothing new in them), and how sure each ask of the bank is to help.
"""

import random
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations, islice
from math import log
from typing import Any, NamedTuple

from promptimal import chat, fidelity, passage
from promptimal.asks import Bank
from promptimal.engine import BadModel, Engine, Feed, Sequences
from promptimal.language import is_english
from promptimal.workers import ReadAhead, in_order

_MAX_VIEW_TOKENS = 400

SHORTLIST = 8
"""Asks that are looked at for a prompt: the surest."""

SURE, SURE_OF_SECOND, SURE_WITHOUT_ROOM, SURE_OF_A_WORD = 0.3, 0.65, 0.5, 0.98
"""How sure an ask must be to be added: as the first one, as a second one, where a prompt leaves little room, and where it is a word or two; set by
readers' lists for the development set and by verdicts, see trainer/LOG.md."""

_ROOM = 600
"""Characters of a request; a longer one says most of what its author wants."""


class _Choice(NamedTuple):
    """An ask of the bank, and how sure the model is that it helps."""

    ask: str
    sure: float


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
    error: str = ""
    """Why a server would not take the prompt, which then stands as typed."""


class Reading(NamedTuple):
    """A prompt as a model gets to see it: its `view`, its tidied form, whether the model may put it in other words, and whether it leaves room for
    asks: work on something handed over mostly wants the work alone, a look-up the fact; a long or narrow request has said it, and one of two words may
    mean anything."""

    prompt: str
    view: str
    tidied: str
    may_be_reworded: bool
    leaves_room: bool


def read(prompt: str) -> Reading | Rewrite:
    """What a model should read of a prompt; or the rewrite at once, where nothing may be added and no model is asked."""
    segments = passage.split(prompt)
    view = passage.view(segments)
    if not view or not is_english(view) or forbids_asks(view):
        typed = chat.trim(prompt)
        return Rewrite(prompt, typed, typed)
    return Reading(prompt, view, chat.tidy(prompt), _may_be_reworded(prompt, segments), _leaves_room(view, segments))


class Rewriter:
    """Rewrites prompts with one loaded model; a subclass knows how, for one prompt."""

    width: int
    """Sequences that one prompt may hold."""
    context: int
    """Tokens that one prompt may need."""

    def __init__(self, engine: Engine, seed: int | None = None) -> None:
        self.engine, self.seed = engine, seed
        self.name = engine.path.name

    def rewrite(self, prompt: str, n: int = 1, show: Callable[[str], None] | None = None) -> list[Rewrite]:
        """Up to `n` different rewrites of a prompt, best first; always at least one.

        `show` gets the request as soon as it stands; every rewrite of this prompt begins with it.
        """
        return self._rewritten(self.engine, prompt, n, show)

    def rewrite_all(self, prompts: Iterable[str], n: int = 1) -> Iterator[list[Rewrite]]:
        """Rewrites of many prompts, in their order, as they are ready."""
        waiting: dict[int, list[Rewrite]] = {}
        following = 0
        ahead = ReadAhead(prompts, self.engine.slots)
        tasks = (partial(self._task, prompt=prompt, n=n) for prompt in ahead)
        for number, rewrites in self.engine.run(tasks, ahead.is_ready):
            waiting[number] = rewrites
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.engine.tokenize(text))

    def close(self) -> None:
        """Free the model."""
        self.engine.close()

    def view_tokens(self, view: str) -> list[int]:
        """The tokens of a view, without the middle of what would be too many: digits and symbols may take a token each."""
        tokens = self.engine.tokenize(view)
        if len(tokens) <= _MAX_VIEW_TOKENS:
            return tokens
        half = _MAX_VIEW_TOKENS // 2
        return [*tokens[:half], *self.engine.tokenize(" […] "), *tokens[-half:]]

    def _rewritten(self, engine: Engine, prompt: str, n: int, show: Callable[[str], None] | None = None) -> list[Rewrite]:
        rewrites: list[Rewrite] = engine.one(lambda sequences: self._task(sequences, prompt, n, show))
        return rewrites

    def _task(
        self, sequences: Sequences, prompt: str, n: int, show: Callable[[str], None] | None = None
    ) -> Generator[list[Feed], Any, list[Rewrite]]:
        raise NotImplementedError


class Chooser(Rewriter):
    """Rewrites prompts with a model of ours, which chooses the ask from its bank."""

    width = 1
    context = 640  # the view, and the request in other words

    def __init__(self, engine: Engine, template: chat.Template, bank: Bank, seed: int | None = None, others: Sequence[Engine] = ()) -> None:
        super().__init__(engine, seed)
        self._engines = (engine, *others)
        if bank.weight.shape[1] != engine.hidden:
            raise BadModel(f"{engine.path}: its asks are another model's: convert it again")
        self.bank = bank
        self._before = engine.tokenize(template.before, special=True)
        self._after = engine.tokenize(template.after, special=True)
        self._keep = engine.tokenize(chat.KEEP)[0]

    def rewrite_all(self, prompts: Iterable[str], n: int = 1) -> Iterator[list[Rewrite]]:
        """Rewrites of many prompts, in their order, as they are ready: each engine works on a prompt of its own."""
        return in_order(prompts, [partial(self._rewritten, engine, n=n) for engine in self._engines])

    def close(self) -> None:
        """Free the model."""
        for engine in reversed(self._engines):
            engine.close()

    def _task(
        self, sequences: Sequences, prompt: str, n: int, show: Callable[[str], None] | None = None
    ) -> Generator[list[Feed], Any, list[Rewrite]]:
        reading = read(prompt)
        if isinstance(reading, Rewrite):
            return [reading]
        sequence = sequences.open()
        rows = yield [Feed(sequence, [*self._before, *self.view_tokens(reading.view), *self._after], state=True)]
        row, state = rows[0]
        request = reading.tidied
        faults: tuple[str, ...] = ()
        if int(row.argmax()) != self._keep and reading.may_be_reworded:
            own = yield from self._own_words(sequence, row, len(reading.view))
            faults = tuple(str(f) for f in fidelity.check(prompt.strip(), own, known=self._known, own_words=True))
            if own and not faults:
                request = own
        if show:
            show(request.rstrip())
        choices = self._choices(state, reading.view)
        nothing = not choices or choices[0].sure < _least(reading)
        pairs = _pairs(choices, reading.view) if reading.leaves_room else iter(())
        asks: Iterator[tuple[_Choice, ...]] = chain([()] if nothing else [], pairs, ((choice,) for choice in choices))

        def made(chosen: tuple[_Choice, ...]) -> Rewrite:
            texts = tuple(choice.ask for choice in chosen)
            score = chosen[0].sure if chosen else 0.0
            return Rewrite(prompt, chat.join(request, " ".join(texts)), request, texts, score, request == reading.tidied, faults)

        return [made(chosen) for chosen in islice(asks, n)]

    def _choices(self, state: Any, view: str) -> list[_Choice]:
        """The surest asks, best first; with a seed, in an order drawn by their odds."""
        sure = self.bank.rate(state)
        surest = [_Choice(self.bank.sentences[i], float(sure[i])) for i in (-sure).argsort()[: 2 * SHORTLIST]]
        choices = [c for c in surest if not is_redundant(c.ask, view) and not fidelity.ruled_out(c.ask, view)]
        return choices[:SHORTLIST] if self.seed is None else self._drawn(choices[:SHORTLIST])

    def _own_words(self, sequence: int, row: Any, size: int) -> Generator[list[Feed], Any, str]:
        """The request as the model would put it: one line, decoded greedily, at most twice as long as the request."""
        written = b""
        while len(written) < 2 * size + 40:
            token = int(row.argmax())
            piece = self.engine.piece(token)
            if self.engine.ends(token) or not piece or b"\n" in piece:
                break
            written += piece
            rows = yield [Feed(sequence, [token])]
            row = rows[0][-1]
        return written.decode(errors="replace").strip()

    def _drawn(self, choices: list[_Choice]) -> list[_Choice]:
        """The choices in an order drawn by their odds (Gumbel, 1954): good ones tend to stand first."""
        draw = random.Random(self.seed)
        return sorted(choices, key=lambda c: log(-log(1 - draw.random())) - log(c.sure / (1 - c.sure)))

    def _known(self, word: str) -> bool:
        """Whether a word is spelled as the model has often seen it: then it is one token."""
        return len(self.engine.tokenize(" " + word)) == 1


def _pairs(choices: list[_Choice], view: str) -> Iterator[tuple[_Choice, ...]]:
    """Two asks at a time that are both sure and say different things, best first; looked for only as far as they are wanted."""
    pairs = sorted(combinations(range(len(choices)), 2), key=sum)  # by rank, so that a drawn order counts as well
    return (
        (choices[i], choices[j])
        for i, j in pairs
        if min(choices[i].sure, choices[j].sure) >= SURE_OF_SECOND
        and choices[i].ask.split()[:3] != choices[j].ask.split()[:3]
        and not is_redundant(choices[j].ask, f"{view} {choices[i].ask}")
    )


def _least(reading: Reading) -> float:
    """How sure the first ask must be."""
    if reading.leaves_room:
        return SURE
    return SURE_OF_A_WORD if len(reading.view.split()) <= 2 else SURE_WITHOUT_ROOM


def _leaves_room(view: str, segments: tuple[passage.Segment, ...]) -> bool:
    words = len(view.split())
    look_up = words <= _LONGEST_LOOK_UP and _LOOK_UP.match(view)
    return not (any(map(passage.is_material, segments)) or len(view) > _ROOM or words <= 2 or look_up or _NARROW.search(view))


def _may_be_reworded(prompt: str, segments: tuple[passage.Segment, ...]) -> bool:
    """Whether a request is short and plain enough for the model to put it in other words; one or two words are nobody's to complete."""
    return (
        len(segments) == 1
        and not passage.is_material(segments[0])
        and "\n" not in prompt.strip()
        and len(prompt) <= chat.MAX_OWN_WORDS
        and len(prompt.split()) > 2
        and not _ON_SPELLING.search(prompt)
    )


_ON_SPELLING = re.compile(
    r"\b(?:correct|fix|proof ?read|spell\w*|grammar|grammatical|unscramble|typos?)\b|\b(its|your|were|there|a|who?s|lets|id|wont|cant)\b.{1,20}\b(?:vs?|versus|or|and)\b",
    re.I,
)
"""A request about how words are written: its own are not to be mended."""
_LONGEST_LOOK_UP = 30  # words
_LOOK_UP = re.compile(
    r"(?:so |ok |hey |hi |please |pls |can you |could you |tell me |do you know |any idea )*(?:who|when|where|which|whose|whens|whos|wheres|in (?:what|which)|on (?:what|which)"
    r"|what(?:['’]?s| is| was| are| were)? (?:the )?(?:name|year|date|day|time|capital|population|height|length|distance|speed|record|longest|largest|biggest|smallest|tallest|fastest"
    r"|oldest|first|last|most|highest|deepest|official|currency|colou?r|symbol|original|real|language|country|city|animal|film|song|book)"
    r"|how (?:many|much|long|far|old|tall|high|deep|fast|big|heavy|often|hot|cold)|(?:is|was|are|were|did|does|do|has|have) (?:it true|the|any|there|[a-z]+ (?:really|ever|rly))"
    r"|name the|true or false)\b",
    re.I,
)
_NARROW = re.compile(
    r"\b(?:short|brief|briefly|concise|concisely|quick answer|quickly)\b(?! (?:story|stories|film|films|break|walk|trip|run|notice))"
    r"|\b(?:a|one|two|three|four|five|\d+)(?: or (?:two|three))? (?:short )?(?:lines?|sentences?|words?|bars|bullets?|paragraphs?)\b"
    r"|\b(?:headings?|code|list|answer|names?|text|result) only\b|\bonly (?:the )?(?:headings?|code|list|answer|names?|text|result)\b|\bno (?:code|prose|intro)\b"
    r"|\b(?:don['’]?t|do not) (?:say|give me|tell me)\b",
    re.I,
)
_FIXED_FORM = re.compile(
    r"\b(?:answer|reply|respond|say)\b(?! to)[^.\n]{0,30}\b(?<!who )(?<!that )(?:only|just|nothing but|yes or no|one word|a single word)\b(?! (?:one|two|three|if|when|wants?|emails?))"
    r"|(?<!to )(?<!function )(?<!can )(?<!could )(?<!why )\b(?:just|only) (?:answer|reply|respond|say|print|output|return|give(?: me)? the|tell me (?:yes|which|the)|the (?:answer|number|name|result|word|code|letter))\b"
    r"|(?:^|[.!?:]\s*|, |and )(?:please )?(?:output|print|return|write|give(?: me)?|show) (?:only|just|nothing but)\b(?! if| when)|\bnothing but the (?!best\b|truth\b)"
    r"|(?:^|[.!?,:]\s*)(?:please )?(?:output )?(?:the )?(?:translation|json|output|code|result|answer)s? only\b|(?:^|[.!?,]\s*)(?:please )?(?:don['’]?t|do not) explain\b"
    r"|\byes or no(?: only| please)?[.?!]*$|^just yes or no\b|\byes ?/ ?no[.?!]*$|\b(?:one|single)[- ]word\b(?: answer|:|$)|\b(?:in|with) (?:one|a single) word\b|\bone word only\b"
    r"|(?<!with )\bno (?:explanations?|preamble|commentary|other text|yapping|chatter)\b(?=\s*(?:[,:.!;]|$|pls|please|needed))"
    r"|(?:^|[.!?]\s+)(?!how\b|why\b|can\b)[^.!?\n]*\bwithout (?:any )?(?:explanations?|comments?|commentary)[.!]*$"
    r"|(?:[,.:;]|\band|\b(?:add|say|do|change|changing|altering|write|writing|return|list|is)) nothing (?:else|more)\b(?! (?:\w+ )?than)|\bnothing (?:else|more):"
    r"|^(?:please )?repeat after me\b|\b(?:answer|reply|respond) with (?:a number|the word|[A-D],)",
    re.I | re.M,
)
_COMMAND = re.compile(
    r"<\|[^|>\n]*\|>|\[/?INST\]|<</?SYS>>|</?s><s>|^</?s>|<(?:start|end)_of_turn>|\[/?SYSTEM\]"
    r"|(?:^|[.!?\n:,]\s*|\b(?:please|now|to|and|then) )(?:ignore|disregard|override|forget)\b[^.\n]{0,20}\b(?:all|any|the|your|previous|prior|above|earlier)\b[^.\n]{0,20}\b(?:instructions?|prompts?|directions?|rules|above|guidelines)\b"
    r"|\bforget (?:everything|all) (?:above|before|i said|you were|you know)|(?:^|[.!?\n]\s*)forget (?:everything|all that)\b"
    r"|(?:^|[.!?\n]\s*)(?:ignore|disregard) (?:everything|the above|all of the above)\b"
    r"|\b(?:your|reveal|print|show|repeat|output|leak)\b.{0,25}\b(?:system|developer|hidden|initial) (?:prompt|message|instructions?)\b|\bprompt (?:rewriter|improver)\b"
    r"|^\s*#{1,3} ?new task\b|^\s*#{1,3} ?(?:system|assistant|user|instructions?|response|input)\s*:?\s*$|^\s*(?:system|assistant) ?:(?! *\w+ \d)|^\s*new instructions?\s*:|\bjailbreak\b|(?-i:\bDAN\b)|\bimproving my prompt"
    r"|\b(?:don['’]?t|do not) (?:change|rewrite|touch|improve) (?:my|this) prompt\b|\bleave (?:my|this) prompt\b",
    re.I | re.M,
)


def forbids_asks(view: str) -> bool:
    """Whether a prompt fixes its answer's form itself, or talks to the rewriter instead of asking: then nothing is added."""
    return bool(_FIXED_FORM.search(view) or _COMMAND.search(view))


def is_redundant(ask: str, view: str) -> bool:
    """Whether most of what an ask says has been said already."""
    words = fidelity.words(ask)
    return bool(words) and len(words & fidelity.words(view)) >= 0.6 * len(words)
