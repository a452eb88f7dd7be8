"""The gate that training pairs pass: look for what would teach the model something wrong.

promptimal-train check pairs.jsonl --against prompts.jsonl
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from promptimal import chat, fidelity, passage
from promptimal_trainer.pairs import Pair, read, read_prompts

KINDS = (
    "fact", "why", "explain", "howto", "maths", "choice", "code", "debug", "compare", "message", "creative", "essay", "text", "ideas",
    "plan", "advice", "opinion", "other",
)  # fmt: skip
NEAR = 0.8
"""Share of their words that two prompts have in common, from which on they are the same."""
_SHARE = (0.02, 0.15)  # of a kind among all pairs
_MOST_COMMON = 0.03  # share of the pairs that may have one and the same ask
_CAP = re.compile(
    r"\b(?:in|under|at most|no more than|within) (?:a|one|two|three|\d+) (?:short |single )?(?:sentences?|words?|lines?|paragraphs?)\b",
    re.I,
)


def check(path: Path, against: Iterable[Path] = ()) -> list[str]:
    """Faults of a pairs file, a line each: "file:line: what is wrong". Raises BadPairs where it cannot be read."""
    pairs = read(path)
    faults = [f"{path}:{number}: {fault}" for number, pair in enumerate(pairs, 1) for fault in _pair_faults(pair)]
    faults += [f"{path}:{a + 1}: the same prompt as in line {b + 1}" for a, b in near_duplicates([p.prompt for p in pairs])]
    for other in against:
        prompts = [record["prompt"] for record in read_prompts(other)]
        merged = prompts + [p.prompt for p in pairs]
        for a, b in near_duplicates(merged):
            if a >= len(prompts) > b:
                faults.append(f"{path}:{a - len(prompts) + 1}: the same prompt as in {other}:{b + 1}")
    return faults + [f"{path}: {fault}" for fault in _share_faults(pairs)]


def summary(path: Path) -> str:
    """Counts by kind, the share of pairs with no asks, and how varied the asks are."""
    pairs = read(path)
    kinds = Counter(p.category for p in pairs)
    sentences = [s for p in pairs for s in _sentences(p)]
    own = sum(p.target.split("\n")[0] != chat.KEEP for p in pairs)
    chosen = [p.asks for p in pairs if p.asks is not None]
    bank = {ask for asks in chosen for ask in asks}
    return (
        f"{len(pairs)} pairs: {', '.join(f'{k} {n}' for k, n in kinds.most_common())}\n"
        f"{own / len(pairs):.0%} with the request in other words; asks written: {len(sentences)}, {len(set(sentences))} different; "
        f"pairs with lists of asks: {len(chosen)}, {chosen.count(()) / max(1, len(chosen)):.0%} of them with none, {len(bank)} different asks"
    )


def _pair_faults(pair: Pair) -> Iterator[str]:
    if pair.category not in KINDS:
        yield f"unknown kind {pair.category!r}"
    parts = chat.take_apart(pair.prompt, pair.improved)
    if len(parts.asks.split()) > fidelity.MOST_WORDS_OF_ASKS:
        yield f"asks of {len(parts.asks.split())} words, at most {fidelity.MOST_WORDS_OF_ASKS}"
    for segment in passage.split(pair.prompt.strip()):
        if passage.is_material(segment) and segment.text.strip() not in pair.improved:
            yield f"material is not kept: {segment.text.strip()[:60]!r}"
    known = _Spelling(pair.improved)
    for fault in fidelity.check(pair.prompt, parts.request, known=known):
        if fault.problem == "missing" and fault.kind in ("number", "link", "placeholder"):
            yield str(fault)
    for fault in fidelity.check(f"{pair.prompt} {parts.request}", parts.asks):
        if (
            fault.problem == "new"
            and fault.kind in ("link", "number")
            and fault.text.lower() not in ("one", "two", "three", "half", "twice")
        ):
            yield f"an ask brings in a {fault.kind}: {fault.text}"
    if match := _CAP.search(parts.asks):
        yield f"an ask caps the length: {match[0]!r}"
    for ask in pair.asks or ():
        yield from (f"the ask {ask!r}: {fault}" for fault in _ask_faults(ask))
    for ask in set(pair.asks or ()) & set(pair.misfits):
        yield f"an ask that both fits and does not: {ask}"
    if "the user" in parts.asks.lower():
        yield 'an ask speaks of "the user"'


@cache
def _ask_faults(ask: str) -> tuple[str, ...]:
    """What is wrong with a sentence that may be chosen for many prompts."""
    caps = ("it caps the length",) if _CAP.search(ask) else ()
    return (*fidelity.check_asks(ask, ""), *caps)


class _Spelling:
    """In a person's own pair the improved side is spelled right: a word is known where it stands there."""

    def __init__(self, improved: str) -> None:
        self._words = {w.lower() for w in re.findall(r"\w+", improved)}

    def __call__(self, word: str) -> bool:
        return word in self._words


def _sentences(pair: Pair) -> list[str]:
    """The asks that were written for a pair, a sentence each."""
    return [s for s in re.split(r"(?<=\.) ", chat.take_apart(pair.prompt, pair.improved).asks) if s]


def _share_faults(pairs: list[Pair]) -> Iterator[str]:
    kinds = Counter(p.category for p in pairs)
    for kind in KINDS:
        share = kinds[kind] / len(pairs)
        if not _SHARE[0] <= share <= _SHARE[1]:
            yield f"{share:.1%} of the pairs are of kind {kind}; each kind should have {_SHARE[0]:.0%} to {_SHARE[1]:.0%}"
    sentences = Counter(s for p in pairs for s in _sentences(p))
    for sentence, count in sentences.most_common(1):
        if count > _MOST_COMMON * len(pairs):
            yield f"{count} pairs have the same ask: {sentence}"


def near_duplicates(prompts: list[str]) -> Iterator[tuple[int, int]]:
    """Each prompt that is the same as an earlier one or nearly, with the first such: Jaccard index of their word sets."""
    words = [frozenset(re.findall(r"\w+", p.lower())) for p in prompts]
    common = Counter(w for ws in words for w in ws)
    index: dict[str, list[int]] = defaultdict(list)
    for number, mine in enumerate(words):
        # Two sets that share NEAR of their words share one of the rarest few of either: only those are looked up.
        rare = sorted(mine, key=lambda w: (common[w], w))[: max(1, len(mine) - int(NEAR * len(mine)) + 1)]
        near = []
        for other in {o for w in rare for o in index[w]}:
            both = len(mine & words[other])
            if both >= NEAR * (len(mine) + len(words[other]) - both):
                near.append(other)
        if near:
            yield number, min(near)
        for w in rare:
            index[w].append(number)
