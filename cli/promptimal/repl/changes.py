"""What a suggestion changed, word by word: what was kept, cleaned, added, and what was left out."""

import re
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

from promptimal.rewrite import Rewrite

_WORD = re.compile(r"\w+|\s+|[^\w\s]")
_MOST = 2000
"""Words that are compared; where more differ the whole stretch counts as changed."""


class Part(NamedTuple):
    """A stretch of a suggestion; "left out" ones stood in the prompt alone."""

    kind: Literal["kept", "cleaned", "added", "left out"]
    text: str


def changes(rewrite: Rewrite) -> list[Part]:
    """The parts whose texts, but for those left out, joined are the suggestion."""
    asks = " ".join(rewrite.asks)
    head = rewrite.text[: len(rewrite.text) - len(asks)] if asks and rewrite.text.endswith(asks) else rewrite.text
    request = head.rstrip()
    parts = _compare(rewrite.prompt.strip(), request)
    added = rewrite.text[len(request) :]
    return [*parts, Part("added", added)] if added else parts


def is_unchanged(rewrite: Rewrite) -> bool:
    """Whether the suggestion is the prompt."""
    return rewrite.text == rewrite.prompt.strip()


def shortened(text: str, most: int = 6) -> str:
    """A long stretch with its middle lines left out, for a glance."""
    lines = text.split("\n")
    if len(lines) > most:
        return "\n".join([*lines[:2], f"[… {len(lines) - 4} lines …]", *lines[-2:]])
    return text if len(text) <= 800 else f"{text[:300]} [… {len(text) - 600} characters …] {text[-300:]}"


def _compare(prompt: str, request: str) -> list[Part]:
    before, after = _WORD.findall(prompt), _WORD.findall(request)
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    middle = _differences(before[start : len(before) - end], after[start : len(after) - end])
    parts = [Part("kept", "".join(after[:start])), *middle, Part("kept", "".join(after[len(after) - end :]))]
    return [part for part in parts if part.text]


def _differences(before: list[str], after: list[str]) -> list[Part]:
    if len(before) + len(after) > _MOST:
        return [Part("left out", "".join(before)), Part("cleaned", "".join(after))]
    parts: list[Part] = []
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            parts.append(Part("kept", "".join(after[c:d])))
        else:
            parts += [Part("left out", "".join(before[a:b])), Part("cleaned", "".join(after[c:d]))]
    return parts
