"""Split a prompt into what is asked and what is handed over.

`split` cuts a prompt into segments whose texts, joined, are the prompt again, byte for byte. An "ask" segment
is what the person wants; every other segment is material (code, a log, a table, a quoted text) that a rewrite carries
along untouched. `view` is what the model gets to read: the asks, with a mark such as "[code]" where
material stands, so that 200 KB of pasted text cost no more than the instruction above them.

The split decides what may be changed, never what is kept: a rewrite is built from all segments.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

MAX_VIEW = 1600
"""Characters of asks the model reads; the middle of a longer request is left out of the view."""


class Segment(NamedTuple):
    """A stretch of the prompt. `kind` is "ask", or what the material is: code, error, table, list, quote, text."""

    kind: str
    text: str


@dataclass(frozen=True)
class _Block:
    """A run of lines with the line ends that follow it."""

    text: str

    @property
    def lines(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.strip()]


_FENCE = re.compile(r"^[ \t]*(```+(?!`)|~~~+(?!~))[^\n]*\n.*?(?:^[ \t]*\1[ \t\r]*$|\Z)", re.M | re.S)
_TAG = re.compile(r"<([A-Za-z][\w-]{0,40})(?: [^<>\n]{0,200})?>")
_ASKING_TAGS = ("task", "instruction", "instructions", "prompt", "request", "question")
_QUOTATION = re.compile(r'(?<![\w"])"(?=[^\s"])[^"]{48,20000}[^\s"]"(?![\w"])|“[^“”]{50,20000}”|«[^«»]{50,20000}»')
_BLANK = re.compile(r"(?:\r?\n[ \t]*)+\r?\n")
_COLON = re.compile(r":[ \t]*(?:\r?\n|(?=\S)|[ \t]+)")

# Words that point at something handed over, and the work that is done on a text.
_POINTS = re.compile(
    r"\b(this|these|following|below|above|here|attached|pasted|text|passage|paragraph|sentences?|input|article|email"
    r"|review|notes|transcript|minutes|data|list|code|snippet|poem|message|quote)\b",
    re.I,
)
_TEXT_WORK = re.compile(
    r"\b(summari[sz]e|summary|translate|proof ?read|rephrase|paraphrase|rewrite|reword|edit|correct|fix|simplify|shorten"
    r"|condense|classify|categori[sz]e|label|extract|identify|convert|turn|sort|order|rank|tl;?dr|improve|polish|tag|detect"
    r"|sentiment|title|headline|answer|respond|reply|find|count|analy[sz]e|critique|review|explain|debug|refactor|bullet"
    r"|change|make|mark|tense|main point|meaning|mean|tone|grammar|typos?|spelling|punctuation|who|what|which|name|list|add|remove|replace)\b",
    re.I,
)
_ERROR = re.compile(
    r"^(Traceback \(most recent|\s*File \"[^\"]+\", line \d|\w*(?:\.\w+)*(?:Error|Exception)\b.*:|\s+at [\w$.<>]+\(|error(\[\w+\])?:"
    r"|ERROR|FATAL|npm ERR!|E\s{3}|panic:|Segmentation fault|\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d)",
    re.M,
)
_CODE_LINE = re.compile(
    r"[;{}]\s*$|^\s*(def|class|import|from \w+ import|return|if .*:$|for .*:$|while .*:$|else:|elif |try:|except|with .*:$|@\w+"
    r"|#include|using |public |private |static |func |fn |let |const |var |SELECT |FROM |WHERE |INSERT |UPDATE |CREATE |JOIN "
    r"|<\w+[^>]*>|</\w+>|\$ |//|/\*|\"\"\"|>>> |\}|\]|\)|echo |sudo |apt |git |pip )|^\s*[\w.\[\]'\"]+\s*[-+*/]?=\s*\S"
    r"|^\s*[\w.]+\([^)]*\)\s*;?$|=>|->|::|&&|\|\|"
)
_ROW = re.compile(r"^\s*\|.*\|\s*$|^[^\t]+\t[^\t]+|^[^,]+,[^,]+(,[^,]*)+$|^\s*[-+|=]{5,}\s*$")
_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+\S")
_OPTION = re.compile(r"^[ \t]*(?:\(?[A-Ha-h][).:]|\([A-Ha-h]\))[ \t]*\S", re.M)
_LABEL = re.compile(
    r"(?:^|\n)[ \t]*(?:text|input|passage|sentence|article|paragraph|context|code|data|email|review|document)s?[ \t]*:[ \t]*\s?$", re.I
)
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?:\s|$)")
_QUESTION_START = re.compile(
    r"(what|who|whom|whose|which|when|where|why|how|is|are|was|were|do|does|did|can|could|should|would|will|am|has|have|had)\b",
    re.I,
)


def split(prompt: str) -> tuple[Segment, ...]:
    """Segments of `prompt`, in order; `"".join(s.text for s in split(p)) == p` for every p."""
    pieces: list[Segment] = []
    position = 0
    for match in _FENCE.finditer(prompt):
        pieces += _split_unfenced(prompt[position : match.start()])
        pieces.append(Segment("code", match[0]))
        position = match.end()
    pieces += _split_unfenced(prompt[position:])
    return _merge(pieces)


def is_material(segment: Segment) -> bool:
    """Whether the segment is handed over rather than asked."""
    return segment.kind != "ask"


def view(segments: tuple[Segment, ...]) -> str:
    """What the model reads: the asks as they stand and a mark for each piece of material."""
    parts: list[str] = []
    for segment in segments:
        if not is_material(segment):
            parts.append(segment.text)
            continue
        lead = segment.text[: len(segment.text) - len(segment.text.lstrip())]
        tail = segment.text[len(segment.text.rstrip()) :]
        size = "short " if len(segment.text) < 100 else ""
        parts.append(f"{_newlines(lead)}[{size}{segment.kind}]{_newlines(tail)}")
    text = "".join(parts).strip()
    if len(text) > MAX_VIEW:
        half = MAX_VIEW // 2
        text = f"{text[:half]} […] {text[-half:]}"
    return text


def has_options(text: str) -> bool:
    """Whether the text lists lettered options, as a multiple-choice question does."""
    return len(_OPTION.findall(text)) >= 2


def _newlines(space: str) -> str:
    return "\n" * min(space.count("\n"), 2) or (" " if space else "")


def _merge(pieces: list[Segment]) -> tuple[Segment, ...]:
    """Join neighbours of one kind; white space alone goes with what stands before it."""
    groups: list[tuple[str, list[str]]] = []
    lead = ""  # white space at the very beginning goes with what follows
    for kind, text in pieces:
        if groups and (groups[-1][0] == kind or not text.strip()):
            groups[-1][1].append(text)
        elif not groups and not text.strip():
            lead += text
        else:
            groups.append((kind, [lead, text]))
            lead = ""
    merged = tuple(Segment(kind, "".join(texts)) for kind, texts in groups)
    return merged or ((Segment("ask", lead),) if lead else ())


def _split_unfenced(text: str) -> list[Segment]:
    """Blocks between a tag and its closing tag are material, unless they are no longer than a word or two."""
    pieces: list[Segment] = []
    position = 0
    unclosed: set[str] = set()  # so that a page of opening tags is searched once, not once a tag
    for match in _TAG.finditer(text):
        if match.start() < position or match[1] in unclosed or len(unclosed) == 50 or match[1].lower() in _ASKING_TAGS:
            continue
        closing = f"</{match[1]}>"
        end = text.find(closing, match.end())
        if end < 0:
            unclosed.add(match[1])
            continue
        end += len(closing)
        if end - match.start() < 60 and "\n" not in text[match.start() : end]:
            continue
        pieces += _split_paragraphs(text[position : match.start()])
        pieces.append(Segment("text", text[match.start() : end]))
        position = end
    return pieces + _split_paragraphs(text[position:])


def _split_paragraphs(text: str) -> list[Segment]:
    if not text.strip():
        return [Segment("ask", text)] if text else []
    cuts = [0, *(m.end() for m in _BLANK.finditer(text)), len(text)]
    blocks = [_Block(text[a:b]) for a, b in pairwise(cuts) if a < b]
    pieces: list[Segment] = []
    handed = False  # an earlier paragraph announced material
    for number, block in enumerate(blocks):
        kind = _block_kind(block)
        prose = kind == "ask"
        if (prose and handed and _is_handed_prose(block, last=number == len(blocks) - 1)) or (
            prose and number == 0 and len(blocks) > 1 and _asks_only_at_the_end(blocks)
        ):
            pieces.append(Segment("text", block.text))
        elif prose:
            pieces += _split_at_colon(block.text)
            handed = handed or _announces(block.text)
        elif kind == "code-after-line":
            first, _, rest = block.text.partition("\n")
            pieces += [Segment("ask", first + "\n"), Segment("code", rest)]
        elif kind == "data-after-line":
            first, _, rest = block.text.partition("\n")
            pieces += [Segment("ask", first + "\n"), Segment(_rows_kind(rest), rest)]
        else:
            pieces.append(Segment(kind, block.text))
    return pieces


def _block_kind(block: _Block) -> str:
    lines = block.lines
    if not lines:
        return "ask"
    if all(line.startswith(("    ", "\t")) for line in lines):
        return "code"
    if all(line.lstrip().startswith(">") for line in lines):
        return "quote"
    if _ERROR.match(block.text.lstrip("\n")):
        return "error"
    if len(lines) >= 2 and all(_ROW.match(line) for line in lines):
        return _rows_kind(block.text)
    if len(lines) >= 3 and _QUESTION_START.match(lines[0]) and not _CODE_LINE.search(lines[0]) and _code_share(lines[1:]) >= 0.6:
        return "code-after-line"
    if _code_share(lines) >= 0.6 and (len(lines) > 1 or _code_only(lines[0])):
        return "code"
    if len(lines) >= 3 and not _CODE_LINE.search(lines[0]) and _code_share(lines[1:]) >= 0.6:
        return "code-after-line"
    if len(lines) >= 3 and not _ROW.match(lines[0]) and all(_ROW.match(line) for line in lines[1:]):
        return "data-after-line"
    return "ask"


def _rows_kind(text: str) -> str:
    return "table" if any(c in text for c in "|\t,") else "list"


def _code_share(lines: list[str]) -> float:
    return sum(bool(_CODE_LINE.search(line)) for line in lines) / len(lines)


def _code_only(line: str) -> bool:
    """One line that is code and nothing else: it has the marks of code and too few words for a sentence."""
    return bool(re.search(r"[;{}]\s*$|\w\(.*\)\s*$|^\s*(SELECT|def|class|import|#include|\$ )\b", line)) and (
        len(re.findall(r"[A-Za-z]{2,} [A-Za-z]{2,}", line)) < 3
    )


def _announces(text: str) -> bool:
    """Whether a paragraph says that material follows."""
    tail = text.rstrip()
    return len(tail) < 500 and (
        tail.endswith(":")
        or (bool(_POINTS.search(tail)) and bool(_TEXT_WORK.search(tail)))
        or (len(tail) < 80 and bool(_TEXT_WORK.match(tail)) and not tail.endswith("."))
    )


def _is_handed_prose(block: _Block, last: bool) -> bool:
    text = block.text.strip()
    if has_options(text) or re.match(r"(i|i'm|i've|my|we|our|please|also|it|you)\b", text, re.I):
        return False
    return not (last and len(text) < 250 and (text.endswith("?") or (_TEXT_WORK.match(text) and ":" not in text[:60])))


def _asks_only_at_the_end(blocks: list[_Block]) -> bool:
    """A long first paragraph with no question, then a short paragraph that asks something about it."""
    first, last = blocks[0].text.strip(), blocks[-1].text.strip()
    return (
        len(first) > 250
        and "?" not in first
        and not _QUESTION_START.match(first)
        and not _TEXT_WORK.match(first)
        and not re.match(r"(write|give|i |i'm|my |we |you |create|make|help|please|imagine|act )", first, re.I)
        and len(last) < 200
        and not has_options(last)
        and (last.endswith("?") or bool(_TEXT_WORK.match(last)) or bool(_POINTS.search(last)))
    )


def _split_at_colon(text: str) -> list[Segment]:
    """ "Summarize this: The mill closed …" hands over what follows its colon."""
    # An instruction is short: a colon far into the text belongs to the material.
    for match in _COLON.finditer(text, 0, 2000):
        head, rest = text[: match.end()], text[match.end() :]
        last_sentence = _SENTENCE_END.split(head.rstrip(": \t\r\n"))[-1]
        start = rest[:1].strip() or rest[:50].strip()[:1]
        if len(last_sentence) > 200 or not start or head.rstrip().endswith(("http:", "https:")):
            continue
        if has_options(rest[:5000]) or re.search(r"\d:$", head.rstrip()):
            continue
        if _LABEL.search(head) or (_TEXT_WORK.search(last_sentence) and (_POINTS.search(last_sentence) or start == '"')):
            if _ITEM.match(rest) and rest.count("\n") >= 2:
                return [Segment("ask", head), Segment("list", rest)]
            return [Segment("ask", head), *_trailing_question(rest)]
    return _split_quotations(text)


def _split_quotations(text: str) -> list[Segment]:
    """Long quotations inside a sentence are material; a name or a word in quotes is not."""
    pieces: list[Segment] = []
    position = 0
    for match in _QUOTATION.finditer(text):
        pieces += [Segment("ask", text[position : match.start()]), Segment("quote", match[0])]
        position = match.end()
    return [*pieces, Segment("ask", text[position:])]


def _trailing_question(rest: str) -> list[Segment]:
    """Material may be followed, on a line of its own, by the question about it."""
    body, newline, last = rest.rstrip().rpartition("\n")
    if newline and len(last) < 200 and last.rstrip().endswith("?") and body.strip():
        return [Segment("text", body + newline), Segment("ask", rest[len(body) + 1 :])]
    return [Segment("text", rest)]
