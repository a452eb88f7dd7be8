"""Read which option of a multiple choice a chat answer picks."""

import re

from promptimal_trainer.sources.question import LETTERS

_MARK = r"[*_`(\[\"'“]*"
_END = r"[*_`)\].:,;\"'”]*"
_LETTER = rf"{_MARK}([A-J])\b(?!['’]\w)"
_STATED = (  # each with the letter as its only group
    re.compile(
        rf"\b(?i:answer|option|choice)\b(?i:\s+(?:to|for)\s+(?:this|the)\s+question)?[*_]*(?i:\s+(?:is|would be|should be|must be|was)\b|\s*[:=])"
        rf"[\s:*_]*(?i:(?:therefore|thus|clearly|option|choice|answer|letter)\s+)*{_LETTER}"
    ),
    re.compile(
        rf"\b(?i:option|choice|answer|letter)\s+{_LETTER}{_END}\s+is\s+(?:the\s+)?(?:most\s+|best\s+)?(?:correct|right|best|true|accurate)\b"
    ),
    re.compile(rf"(?<!\w){_LETTER}{_END}\s+is\s+(?:the\s+)?(?:most\s+|best\s+)?(?:correct|right|best)\b"),
    re.compile(rf"\b(?i:choose|chose|pick|select|go with|going with)\s+(?i:(?:option|answer|choice)\s+)?{_LETTER}"),
    re.compile(r"\\boxed\{\s*(?:\\text\{)?\(?([A-J])\)?\}"),
)
_SECOND = re.compile(rf"^{_END}(?:\s*(?i:or|and|and/or|/)\s+(?i:option\s+)?{_LETTER}|,\s*([A-J]){_END}\s*(?:,|or\b|and\b))")
_FINAL = re.compile(r"\b(?:final answer|so,? the (?:correct |right |best )?answer)\b", re.I)
_ALONE = re.compile(rf"^\s*{_MARK}(?:(?i:answer|option|choice)\s*:?\s*)?{_MARK}([A-J])(?:[.):,*_`\]\"'”]+(?:\s|$)|\s*$|\s+[-–—]\s)")
_OPENS_LINE = re.compile(r"(?:^|\n)\s*(?:[-*]\s+)?[*_`(\[]*([A-J])[*_`]*[.):\]]")


def chosen(answer: str, choices: tuple[str, ...]) -> str | None:
    """The letter of the option that `answer` picks, "A" for the first; None where it picks none, several, or one that is not there.

    What it says outright ("the answer is B") counts before a letter it opens or ends with, and that before an option it repeats.
    """
    for found in (_exact(answer, choices), stated(answer), _alone(answer), _listed(answer), _quoted(answer, choices)):
        if found:
            (letter, *others) = sorted(found)
            return None if others or LETTERS.index(letter) >= len(choices) else letter
    return None


def _exact(answer: str, choices: tuple[str, ...]) -> set[str]:
    """The option that is the whole answer; a single letter is the letter of one."""
    text = _plain(answer)
    return {letter for letter, choice in zip(LETTERS, choices, strict=False) if _plain(choice) == text} if len(text) > 1 else set()


def stated(answer: str) -> set[str]:
    """Letters that a sentence says to be the answer; with "so the answer is" or "final answer" the last one alone."""
    matches = sorted((match for pattern in _STATED for match in pattern.finditer(answer)), key=lambda match: match.end(1))
    found = [match[1] for match in matches]
    if _FINAL.search(answer):
        return set(found[-1:])
    return {*found, *(second[1] or second[2] for match in matches if (second := _SECOND.match(answer[match.end(1) :])))}


def _alone(answer: str) -> set[str]:
    """A letter on the first line, "B" or "B. because …", or alone on the last."""
    lines = [line for line in answer.strip().splitlines() if line.strip()]
    if re.fullmatch(r"[a-j][.)]?", answer.strip()):
        return {answer.strip()[0].upper()}
    if not lines:
        return set()
    if len(set(_OPENS_LINE.findall(answer))) > 1:  # a list of options, not an answer
        last = re.fullmatch(rf"\s*{_MARK}([A-J]){_END}\s*", lines[-1])
        return {last[1]} if last and len(lines) > 1 else set()
    return {match[1] for line in (lines[0], lines[-1]) if (match := _ALONE.match(line))}


def _listed(answer: str) -> set[str]:
    """The only letter that begins a line."""
    found = set(_OPENS_LINE.findall(answer))
    return found if len(found) == 1 else set()


def _quoted(answer: str, choices: tuple[str, ...]) -> set[str]:
    """Options whose whole text the answer repeats; one inside another that is repeated too does not count."""
    plain = f" {_plain(answer)} "
    texts = {letter: _plain(choice) for letter, choice in zip(LETTERS, choices, strict=False)}
    found = {letter for letter, text in texts.items() if text and f" {text} " in plain}
    return {a for a in found if not any(a != b and f" {texts[a]} " in f" {texts[b]} " and texts[a] != texts[b] for b in found)}


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+|[^\w\s.,;:!?*_`\"'“”()]", text.lower()))
