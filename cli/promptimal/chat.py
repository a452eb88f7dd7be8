"""The one prompt format: what the model reads and what it writes, shared by the rewriter and the trainer.

The model reads the person's request (material replaced by marks, see `passage.view`). A model with a bank of asks (see `asks`) writes one line:

    =                                                    the request stands as it is; or the request in better words

The line is one token for nearly every prompt, so that the request is never decoded, nor read twice; the bank's layer does the rest. A model without a
bank goes on with a second line, the asks in its own words, empty where nothing fits.
"""

import re
from typing import NamedTuple

from promptimal import passage

KEEP = "="
"""The first line of an answer that leaves the request as the person typed it."""

MAX_OWN_WORDS = 240
"""Characters of a request that the model may put in its own words; a longer one stands as typed."""


class Template(NamedTuple):
    """The text around a request in a chat model's input. Only these strings may hold control tokens."""

    before: str
    after: str
    end: str


CHATML = Template("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>")
TEMPLATES = {
    "chatml": CHATML,
    # Qwen3 opens an answer that it gives without thinking with an empty thought.
    "qwen3": CHATML._replace(after=CHATML.after + "<think>\n\n</think>\n\n"),
    # Llama 2's tokenizer opens every text with a blank: these pieces and the request between them are "<s>[INST] request [/INST] answer</s>".
    "llama2": Template("<s>[INST]", "[/INST]", "</s>"),
}


class Parts(NamedTuple):
    """An improved prompt taken apart: the request in its improved words, and the asks that follow it."""

    request: str
    asks: str


def trim(prompt: str) -> str:
    """The prompt without blank lines around it; a first line of several keeps its indentation, which may be that of code."""
    text = re.sub(r"\A(?:[ \t]*\r?\n)+", "", prompt).rstrip()
    return text if "\n" in text or any(map(passage.is_material, passage.split(text)[:1])) else text.lstrip()


def tidy(prompt: str) -> str:
    """The prompt with the blanks around it gone, a capital at the start and a mark at the end of a short plain sentence.

    Nothing else is touched, and material not at all.
    """
    text = trim(prompt)
    if "\n" in text or len(text) > MAX_OWN_WORDS or not _is_plain(text) or any(map(passage.is_material, passage.split(text))):
        return text
    first = re.match(r"[a-z]+(?=[ ,']|$)", text)
    if first and not _ACRONYM.match(text) and not re.match(r"[a-z]+[ ]?[=(]", text):
        text = text[0].upper() + text[1:]
    text = re.sub(r"\bi(?='(?:m|ve|ll|d)\b)", "I", text)
    if re.search(r"[\w)'\"%$]$", text) and len(text.split()) > 2 and not _UNMARKED.search(text) and not _NAME_AT_END.search(text):
        text += "?" if _is_question(text) else "."
    return text


def target(prompt: str, improved: str, write_asks: bool = True) -> str:
    """What the model should write for `prompt` to become `improved`: the request's line and, with `write_asks`, the asks' line."""
    own, asks = take_apart(prompt, improved)
    if (
        "\n" in own
        or len(own) > MAX_OWN_WORDS
        or own in (prompt.strip(), trim(prompt), tidy(prompt))
        or any(passage.is_material(s) for s in passage.split(prompt))
    ):
        own = KEEP
    return f"{own}\n{asks}" if write_asks else own


def take_apart(prompt: str, improved: str) -> Parts:
    """Find where the request ends in `improved` and the asks begin.

    The asks are the longest run of closing sentences that the prompt's own words do not need.
    """
    improved = improved.strip()
    for kept in (prompt.strip(), tidy(prompt)):
        for stem in (kept, kept.rstrip(".?!: ")):
            mark = _END_MARK.match(improved, len(stem)) if improved.startswith(stem) else None
            if mark:
                return Parts(stem + mark[0], _one_line(improved[mark.end() :]))
    wanted = set(_words(prompt)) & set(_words(improved))
    cut = len(improved)
    for start in reversed(_sentence_starts(improved)):
        if start == 0 or not wanted <= set(_words(improved[:start])):
            break
        cut = start
    asks = _one_line(improved[cut:])
    # An ask is a demand: a closing question ("… What should I do?") or trailing dots belong to the request.
    question = re.match(r"(?:.*\?(?=\s)|\.{3}(?=\s))", asks)
    if question:
        cut += improved[cut:].index(asks[: question.end()].split()[-1]) + len(asks[: question.end()].split()[-1])
    return Parts(improved[:cut].strip(), _one_line(improved[cut:]))


def join(request: str, asks: str) -> str:
    """The rewrite: the request, then the asks; on lines of their own after material or a request of several lines."""
    if not asks:
        return request
    newline = "\r\n" if "\r\n" in request else "\n"
    body = request.rstrip()
    segments = passage.split(body)
    if not body:
        return asks
    if passage.is_material(segments[-1]) or "\n" in body or body[-1] in ",:;" or _UNMARKED.search(body) or _NAME_AT_END.search(body):
        return f"{body}{newline}{newline}{asks}"
    if body[-1] not in ".?!)]}\"'…" or (body[-1] in ")]}\"'" and not re.search(r"[.?!][)\]}\"']+$", body)):
        body += "?" if _is_question(body) else "."
    return f"{body} {asks}"


def _is_plain(text: str) -> bool:
    """English-looking prose without the marks of code or markup."""
    return not re.search(r"[{}<>\\|=;`\[\]]|^\W", text) and text.isascii()


_ACRONYM = re.compile(
    r"(?:ai|apis?|aws|cpu|css|csv|eu|gcd|gdp|gpu|gui|html|https?|ios|ipads?|iphones?|js|json|lcm|macos|npm|ntfs|pdfs?|php|ps\d|sql|ssh|ssl|tcp|tls|tv|ui|uk|urls?"
    r"|usb|ux|vpn|xml|yaml)\b"
)
"""First words that one capital would misspell."""
_HANDS_OVER = re.compile(
    r"^(?:please |pls |can you |could you )?(?:translate|proof ?read|paraphrase|unscramble|simplify|shorten|summari[sz]e|reword|rephrase|rewrite|correct|fix"
    r"|continue|complete|finish|decode|classify)\b[^.:?!\n]{0,40}:\s",
    re.I,
)
"""A request that goes on with the text it is about: no mark may touch that, nor an ask follow it on its line."""
_UNMARKED = re.compile(rf"{_HANDS_OVER.pattern}| [:;]-?[)DP(]+$", re.I)
_NAME_AT_END = re.compile(r"\S*[/\\_@=]\S*$|\w\.\w+$")  # a link, a path, a file name, code: no mark may touch it
_END_MARK = re.compile(r"(?: ?\.\.\.|[.?!])?(?=\s|$)")
_QUESTION = re.compile(
    r"(?:so |and |but |ok |hey |hi )?(in what|in which|what|who|whom|whose|which|when|where|why|how|is|are|was|were|do|does|did|can|could|should|would|will"
    r"|am|has|have|isn't|aren't|don't|doesn't|didn't|can't|won't|what's|who's|where's|how's|whats|hows|wheres)\b",
    re.I,
)
_NO_QUESTION = re.compile(
    r"(?:how to|what to|where to|when to|have (?:a|an|the|some|my)|do (?:a|an|the|not|my)|can you imagine|could use|would love)\b"
    r"|(?:don't|didn't|doesn't|won't|can't) (?!i\b|you\b|we\b|he\b|she\b|it\b|they\b|the\b|this\b|that\b|these\b|people\b)",
    re.I,
)


def _is_question(text: str) -> bool:
    """Whether the last sentence asks."""
    last = re.split(r"[.?!]\s+", text)[-1].strip()
    return bool(_QUESTION.match(last)) and not _NO_QUESTION.match(last)


def _words(text: str) -> list[str]:
    return [w.lower() for w in re.findall(r"\w+", text)]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _sentence_starts(text: str) -> list[int]:
    return [0] + [m.end() for m in re.finditer(r"[.?!:][\"')\]]*\s+(?=[A-Z\"'(\[])|\n\s*\n", text)]
