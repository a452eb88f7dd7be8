"""Whether a rewritten prompt gives away the answer: such a prompt would score well and teach the rewriter to answer.

What the original prompt says itself is no leak. The checks look for what is new: the right letter or option singled out, the answer's number,
lines of the solution whatever its variables are called, long runs of the reference answer's words.
"""

import ast
import builtins
import contextlib
import keyword
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator

from promptimal_trainer.answers import stated
from promptimal_trainer.sandbox import code_blocks
from promptimal_trainer.sources.question import LETTERS, Question

_RUN = 8  # words in a row that a prompt and a reference answer share by chance no more
_SHORT = 25  # words; a longer answer holds many numbers that are not its result
_LINE_OF_CODE = 5  # fixed tokens (all but variables and brackets) from which on one line is recognised
_KEPT = {*keyword.kwlist, *keyword.softkwlist, *dir(builtins)} - {"_", "input", "type", "id"}
_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_VALUE = {**{w: n for n, w in enumerate(_UNITS)}, **{w: 10 * n for n, w in enumerate(_TENS) if n > 1}}
_SCALE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d+(?:,\d{3})*(?:\.\d+)?|(?<![\w.])[-−]?\.\d+")
_LIST_NUMBER = re.compile(r"^\s*\d+[.)]\s", re.M)
_TOKEN = re.compile(r"""("{3}|'{3}).*?\1|"[^"\n]*"|'[^'\n]*'|\d[\w.]*|\.?[^\W\d]\w*|[-+*/%<>=!&|^]=|//|\*\*|->|[^\w\s()]""", re.S)
_NAMED = re.compile(r"(?<!\w)\(?([A-J])(?!\w)(?!['’]\w)")


def leaks(prompt: str, question: Question) -> str | None:
    """What `prompt`, a rewriting of `question.text`, gives away of the answer, in a sentence; None if nothing."""
    checks = {"choice": _choice, "open": _open, "code": _code}[question.kind]
    return next(checks(prompt, question), None)


def _choice(prompt: str, question: Question) -> Iterator[str]:
    if stated(prompt) - stated(question.text) == {question.answer}:
        yield f"it says that the answer is {question.answer}"
    right = LETTERS.index(question.answer)
    more = [_count(choice, prompt) - _count(choice, question.text) for choice in question.choices]
    others = [more[n] - more[right] * _count(c, question.choices[right]) for n, c in enumerate(question.choices) if n != right]
    if more[right] > max(others, default=0):
        yield f"it repeats the right option, {question.choices[right]!r}, and not the others"
    fresh = _fresh_lines(prompt, question.text)
    gone = [choice for number, choice in enumerate(question.choices) if more[number] < 0 and not _nearly(choice, fresh)]
    within = sum(
        min(more[number], 0) * _count(question.choices[right], choice) for number, choice in enumerate(question.choices) if number != right
    )
    if more[right] >= within and gone:
        yield "it leaves out wrong options"
    if _odd_one(_decorations(prompt, question.choices)) == right and _odd_one(_decorations(question.text, question.choices)) != right:
        yield f"it marks the right option, {question.answer}"
    named = set(_named(_new_sentences(prompt, question)))
    if question.answer in named and len(named) < len(question.choices):
        yield f"it singles out option {question.answer}"
    if more[right] <= 0:
        wrong = " ".join(choice for number, choice in enumerate(question.choices) if number != right)
        yield from _number(prompt, question.text, question.choices[right], known=_numbers(wrong))


def _open(prompt: str, question: Question) -> Iterator[str]:
    answer, new, old = _words(question.answer), _words(prompt), _words(question.text)
    added = set(_runs(new, _RUN)) - set(_runs(old, _RUN))
    for run in _runs(answer, _RUN):
        if run in added:
            yield f"it has words of the answer: {' '.join(run)!r}"
    if 0 < len(answer) < _RUN and len(question.answer.strip()) > 3 and _has(new, answer) and not _has(old, answer):
        yield f"it has the answer: {question.answer.strip()!r}"
    if len(answer) <= _SHORT:
        yield from _number(prompt, question.text, question.answer)


def _code(prompt: str, question: Question) -> Iterator[str]:
    given, new = _stream(question.text), _stream("\n".join([prompt, *(_rewritten(code) for code in code_blocks(prompt))]))
    total = found = 0
    for line in question.answer.splitlines():
        tokens = _tokens(line.partition("  #")[0])
        weight = sum(token != "_" for token in tokens)
        forms = [f" {' '.join(tokens)} ", _stream(_rewritten(line))]
        if weight < 2 or any(form in given for form in forms):
            continue
        total += weight
        if any(form in new for form in forms):
            found += weight
            if weight >= _LINE_OF_CODE:
                yield f"it has a line of the solution: {line.strip()!r}"
    if found and (found == total or found >= max(4, total / 2)):
        yield "it has most of the solution"


def _number(prompt: str, original: str, answer: str, known: Iterable[float] = ()) -> Iterator[str]:
    """Numbers of the answer that the prompt says more often than the original. "One" is no number here: it is said of anything."""
    before, after, known = Counter(_numbers(original)), Counter(_numbers(prompt)), set(known)
    for number in _numbers(_LIST_NUMBER.sub("", answer)):
        if after[number] > before[number] and number not in known:
            yield f"it has the answer's number, {number:g}"


def _numbers(text: str) -> Iterator[float]:
    """Every number, in figures or English words ("forty-two", "one hundred and five")."""
    for match in _NUMBER.finditer(text):
        yield float(match[0].replace(",", "").replace("−", "-"))
    total, current = 0, 0
    seen: list[str] = []
    for word in [*re.findall(r"[a-z]+|[.,;:!?]", text.lower()), "."]:
        if word in _VALUE:
            current += _VALUE[word]
        elif word == "hundred" and seen:
            current *= 100
        elif word in _SCALE and seen:
            total, current = total + current * _SCALE[word], 0
        elif word == "and" and seen and seen[-1] in _SCALE:
            continue
        else:
            if seen and seen != ["one"]:
                yield float(total + current)
            total, current, seen = 0, 0, []
            continue
        seen.append(word)


def _count(part: str, text: str) -> int:
    """How often the words of `part` stand in a row in `text`."""
    words = _words(part)
    lines = "\n".join(f" {'  '.join(_words(line))} " for line in text.splitlines())
    return lines.count(f" {'  '.join(words)} ") if words else 0


def _nearly(choice: str, lines: list[str]) -> bool:
    """Whether one of the new lines has most of an option's words, so that it was put right and not struck out."""
    words = set(_words(choice))
    return any(len(words & set(_words(line))) >= 0.6 * len(words) for line in lines)


def _fresh_lines(prompt: str, original: str) -> list[str]:
    known = {" ".join(_words(line)) for line in original.splitlines()}
    return [line for line in prompt.splitlines() if " ".join(_words(line)) not in known]


def _decorations(text: str, choices: tuple[str, ...]) -> list[str]:
    """What stands around each option on its line, its letter aside, or how its letters' case differs; "" for an option that has no line."""
    found = []
    for letter, choice in zip(LETTERS, choices, strict=False):
        line = next((line for line in reversed(text.splitlines()) if choice.lower() in line.lower() and _opens(line, letter)), "")
        around = re.sub(rf"(?<!\w){letter}(?!\w)", "", line, count=1).replace(choice, "")
        found.append(" ".join(around.split()) if line else "")
    return found


def _opens(line: str, letter: str) -> bool:
    return bool(re.match(rf"\W*{letter}(?!\w)", line))


def _odd_one(values: list[str]) -> int | None:
    """The place of the only value that differs from all others, which are the same."""
    for place, value in enumerate(values):
        rest = {*values[:place], *values[place + 1 :]}
        if len(values) > 2 and len(rest) == 1 and value not in rest:
            return place
    return None


def _new_sentences(prompt: str, question: Question) -> str:
    """The sentences and lines of the prompt that the original has not; of a line in the list of options what follows the option."""
    known = {" ".join(_words(part)) for part in _sentences(question.text)}
    new = []
    for part in _sentences(prompt):
        if re.match(r"\W*[A-J]\W*[.):\]]", part):
            part = next((part.rpartition(choice)[2] for choice in question.choices if choice in part), "")
        if " ".join(_words(part)) not in known:
            new.append(part)
    return "\n".join(new)


def _sentences(text: str) -> list[str]:
    return [part for line in text.splitlines() for part in re.split(r"(?<=[.!?])\s+(?=\w{2,}|I\b)", line) if part.strip()]


def _named(text: str) -> Iterator[str]:
    """Letters that stand for an option, and not for the article or the pronoun. A range names all."""
    if match := re.search(r"(?<!\w)A\s*(?:-|–|to|through)\s*([B-J])(?!\w)", text):
        yield from LETTERS[: LETTERS.index(match[1]) + 1]
    for match in _NAMED.finditer(text):
        after = text[match.end() :]
        if match[1] not in "AI" or not re.match(r"\s+\w", after) or re.match(r"\s+(?:is|or|and|because|as)\b", after):
            yield match[1]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’]\w+)?|[-+=<>≤≥√^/%°$€£~¬⊃∨∧•→↔]", text.lower().replace("−", "-"))


def _runs(words: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + length]) for i in range(len(words) - length + 1))


def _has(words: list[str], part: list[str]) -> bool:
    return f" {' '.join(part)} " in f" {' '.join(words)} "


def _rewritten(code: str) -> str:
    """The code as Python itself would lay it out, or, where it is no Python, as it is: a body may stand there without its head."""
    for whole in (textwrap.dedent(code), f"{code.strip()} pass"):
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            return ast.unparse(ast.parse(whole)).removesuffix("pass").strip() if whole.endswith(" pass") else ast.unparse(ast.parse(whole))
    return code


def _stream(code: str) -> str:
    return f" {' '.join(_tokens(code))} "


def _tokens(code: str) -> list[str]:
    """Tokens of Python, or of prose read as such: every name but those of keywords, attributes and functions becomes "_"."""
    found = []
    for match in _TOKEN.finditer(code):
        token = match[0]
        called = code[match.end() : match.end() + 1] == "("
        fixed = called or token in _KEPT or token[0] == "." or not token[0].isidentifier()
        found.append((token.replace("'", '"') if token[0] in "'\"" else token) if fixed else "_")
    return found
