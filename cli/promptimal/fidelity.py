"""Compare a request with its rewrite: what the person gave must still be there, and nothing may be put in their mouth.

`check` lists faults in words, with positions; an empty list means faithful. It knows no grammar and no meaning: it compares the things
that carry a request (numbers, names, quotations, links, code, placeholders, negations, limits, content words) one by one.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple


class Fault(NamedTuple):
    """Something missing from the rewrite, or new in it. `start` and `end` point into the request, or into the rewrite."""

    problem: str  # "missing" or "new"
    kind: str
    text: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.problem} {self.kind}: {self.text}"


class Item(NamedTuple):
    """A thing a text gives: its kind, the form in which it is compared, and where it stands."""

    kind: str
    form: str
    text: str
    start: int
    end: int


_VERBATIM = {
    "link": r"https?://[^\s<>\"')\]]+|\bwww\.[^\s<>\"')\]]+|[\w.+-]+@[\w-]+\.\w[\w.]*",
    "quotation": r"\"[^\"\n]+\"|“[^”\n]+”|«[^»\n]+»",
    "code": r"`[^`\n]+`|\b\w+\([^()\n]*\)|\b[A-Za-z]+(?:_\w+)+\b|\b[a-z]+[a-z0-9]*[A-Z]\w*\b|(?<!\w)(?:\.{0,2}/)?(?:[\w.-]+/)+[\w.-]+"
    r"|(?<![\w-])--?[a-z][\w-]*\b|(?<!\w)[\w-]+\.(?:py|js|ts|c|h|cpp|rs|go|java|sh|sql|csv|json|txt|md|html|css|ya?ml|toml|pdf|docx?|xlsx?)\b",
    "placeholder": r"\{[^{}\n]*\}|\[[^\[\]\n]+\]|<[^<>\n]+>|%\w|\$\w+",
}
_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBER_WORDS = {
    **{word: str(n) for n, word in enumerate(_UNITS)},
    **{word: str(10 * n) for n, word in enumerate(_TENS, 2)},
    "hundred": "hundred", "thousand": "thousand", "million": "million", "billion": "billion", "dozen": "dozen",
    "half": "half", "quarter": "quarter", "twice": "twice", "double": "double", "triple": "triple",
}  # fmt: skip
_OPERATOR = re.compile(r"(?<=\w)(?:\+\+|#)|[<>=!]=+|(?<=[\w)]) ?[-+*/^<>=] ?(?=[\d(])|(?<=\d) ?[-+*/^<>=] ?(?=\w)|(?<=\d)!")
_NUMBER = re.compile(r"(?<![\w.])[-−]?[$€£]?\d[\d,.:/]*\d%?|(?<![\w.])[-−]?[$€£]?\d%?")
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|neither|nor|without|except|unless|cannot|avoid|non"
    r"|(?:do|does|did|is|are|was|were|ca|wo|should|would|could|have|has|had|must|ai)n['’]?t)\b",
    re.I,
)
_LIMIT = re.compile(
    r"\b(?:at (?:most|least)|(?:no|not) (?:more|less|fewer|longer|later) than|(?:more|less|fewer|longer|greater|better|worse) than"
    r"|up to|only|just|exactly|under|over|below|above|within|until|before|after|max(?:imum)?|min(?:imum)?|always|must|every|each)\b",
    re.I,
)
_NO_LETTER = r"(?<![^\W\d_])"  # before a word, as _WORD cuts it: "B" in "3B" is one
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*", re.U)

# Words that carry no content of their own: they may come and go when a fragment becomes a sentence.
_FUNCTION = frozenset(
    """a an the this that these those it its i me my mine we us our you your he him his she her they them their there here and or but so
    if then than as of to in on at by for from with about into onto out up off over between among through during is are was were be been
    being am do does did done have has had having will would can could may might shall should what which who whom whose when where why
    how please also too very really some any all both such not no im ive id ill dont doesnt didnt cant wont isnt arent wasnt whats hows wheres thats
    theres lets hes shes its youre theyre weve youve theyve dont's got get need want like hey hi hello pls plz thx thanks thank ok okay lol um uh well just
    actually basically kinda gonna wanna lemme gimme u ur r w n y bc cuz tho abt ppl smth idk asap""".split()
)
# Words with which a fragment becomes a sentence; they may be new. Each is what any assistant would do with such a fragment anyway.
_SCAFFOLD = frozenset(
    """explain show write give tell describe list suggest make create find compare say help solve calculate work translate summarize
    summarise define difference meaning mean means answer question use using used do don't doesn't didn't can't won't isn't it's i'm i've i'd what's
    that's how's there's where's who's let's he's she's they're you're we're following people something because about tomorrow plan provide
    good best better choose cause causes things way right now years old team msg""".split()
)
_SHORT_FORMS = {
    "pls": "please", "plz": "please", "thx": "thanks", "u": "you", "ur": "your", "r": "are", "w": "with", "wo": "without", "n": "and",
    "bc": "because", "cuz": "because", "tho": "though", "abt": "about", "ppl": "people", "smth": "something", "tmrw": "tomorrow",
    "tmr": "tomorrow", "qs": "questions", "hw": "homework", "yo": "year-old", "yr": "year", "yrs": "years", "hrs": "hours",
    "mins": "minutes", "wk": "week", "wks": "weeks", "vs": "versus", "msg": "message", "oneliner": "one-liner", "govt": "government", "esp": "especially", "info": "information",
    "btw": "between", "dept": "department", "bday": "birthday", "prof": "professor",
}  # fmt: skip


def check(request: str, rewrite: str, *, known: Callable[[str], bool] | None = None, own_words: bool = False) -> list[Fault]:
    """What is missing from `rewrite` or new in it, compared with `request`.

    With `own_words`, `rewrite` is the request alone in other words (no asks): then new content words and negations are faults
    as well. `known` tells whether a word is spelled right: only an unknown word may have been corrected to a near one.
    """
    faults: list[Fault] = []
    given, made = list(items(request)), list(items(rewrite))
    for kind in ("link", "quotation", "code", "placeholder", "number", "operator", "negation", "limit", "name"):
        faults += _compare(kind, given, made, rewrite, request, own_words)
    words_before = {i.form: i for i in given if i.kind == "word"}
    words_after = {i.form: i for i in made if i.kind == "word"}
    lost = [i for form, i in words_before.items() if form not in words_after and not _is_covered(i.text, words_after)]
    new = [i for form, i in words_after.items() if form not in words_before]
    for item in lost:
        mended = _SHORT_FORMS.get(item.text.lower()) or next((n.text for n in new if _is_mended(item.text, n.text, known)), None)
        if mended is None:
            faults.append(Fault("missing", "word", item.text, item.start, item.end))
        else:
            new = [n for n in new if n.text.lower() != mended.lower()]
    if own_words:
        if fault := _unaligned(request, rewrite, known):
            faults.append(fault)
        for item in new:
            if item.text.lower() not in _SCAFFOLD and not _is_covered(item.text, words_before):
                faults.append(Fault("new", "word", item.text, item.start, item.end))
    return sorted(set(faults), key=lambda f: (f.problem, f.start))


MOST_WORDS_OF_ASKS = 45
_DEMAND = frozenset(
    """acknowledge add adapt address answer appeal ask avoid back balance base be begin break build capture check choose cite clear compare consider cover define describe discuss distinguish
    end ensure explain fill find focus follow give go grade ground group handle highlight identify illustrate include indicate judge keep lay lead let list make mark measure mention mix name note offer
    open order organize outline pick point present prioritize provide pull put quote recommend round say separate set share show specify start state stay suggest summarize
    support take tell test think trace translate use vary walk weigh work write for if in where with also then""".split()
)


def check_asks(asks: str, request: str) -> list[str]:
    """What is wrong with asks that a model wrote itself for `request`, in words: they may demand, and bring in nothing."""
    faults = []
    if len(asks.split()) > MOST_WORDS_OF_ASKS:
        faults.append(f"asks of more than {MOST_WORDS_OF_ASKS} words")
    if "?" in asks or not asks.endswith((".", "!")):
        faults.append("asks that are no whole sentences")
    sentences = re.split(r"(?<=[.!]) +", asks)
    faults += [f"no demand but a statement: {s[:40]}" for s in sentences if not demands(s)]
    faults += [f"demands what the request rules out: {word}" for word in ruled_out(asks, request)]
    known = request.lower()
    for item in items(asks):
        allowed = item.kind == "number" and item.form in ("1", "2", "3")
        if item.kind in ("link", "number", "name", "code", "quotation") and not allowed and item.text.lower() not in known:
            faults.append(f"new {item.kind}: {item.text}")
    return faults


_FEATURE = (
    r"(?:examples?|titles?|humou?r|jokes?|funny|subject lines?|placeholders?|tables?|steps?|analog(?:y|ies)|metaphors?|(?:both )?sides|call to action|caveats?|disclaimers?"
    r"|endings?|sources?|recaps?|summar(?:y|ies)|comments?|jargon|formulas?|diagrams?|quotes?|advice|theory|history|background|emojis?|hashtags?|statistics"
    r"|alternatives?|options?|rhym(?:es?|ing)|dialogue|moral|twist|conclusion|comparisons?|pros and cons|template)"
)
_WITHOUT = re.compile(
    r"\b(?:no|without(?: an?| any| the)?|avoid(?: any)?|skip(?: the)?|hates?|not (?:just )?(?:an?|the|any)"
    r"|(?:don['’]?t|do not|never) (?:want|need|give|use|include|mention|write|add|tell|show|make)(?: me| it| us)?(?: an?| any| the)?)"
    rf"(?: [\w'’-]+){{0,2}}? (?P<feature>{_FEATURE})\b",
    re.I,
)


_ONE_SIDED = re.compile(
    r"\b(?:no|not|without)\b[^.?!\n]{0,30}\b(?:both sides|balanced?)\b|\bwhere (?:i['’]?m|i am|am i) wrong\b|\b(?:convince|persuade) me\b"
    r"|\bdevil['’]?s advocate\b|\bone[- ]sided\b|\bargue (?:for|against|that)\b|\bmake the case (?:for|against)\b"
    r"|\byour own (?:judge?ment|opinion|view)\b|\bpick a side\b",
    re.I,
)
_TWO_SIDED = re.compile(r"\bfor (?:both|and against)\b|\bthen (?:argue|make|convince|persuade)\b", re.I)
_BOTH_SIDES = re.compile(r"\bboth sides\b|\beach (?:position|side)\b|\bother side\b", re.I)


def ruled_out(asks: str, request: str) -> list[str]:
    """The features of an answer ("example", "table", "both sides") that a request will have none of, and asks demand all the same."""
    unwanted = {stem(word): word for match in _WITHOUT.finditer(request) for word in match["feature"].split()}
    found = [word for form, word in unwanted.items() if form in words(asks)]
    one_sided = _BOTH_SIDES.search(asks) and _ONE_SIDED.search(request) and not _TWO_SIDED.search(request)
    return [*found, "both sides"] if one_sided else found


def demands(sentence: str) -> bool:
    """Whether a sentence begins as a demand does."""
    return bool(words := sentence.split(maxsplit=1)) and words[0].strip(",").lower() in _DEMAND


def items(text: str) -> Iterator[Item]:
    """What a text gives, kind by kind."""
    for kind, pattern in _VERBATIM.items():
        for match in re.finditer(pattern, text):
            yield Item(kind, match[0], match[0], *match.span())
    for match in _NUMBER.finditer(text):
        yield Item("number", _plain_number(match[0]), match[0], *match.span())
    for match in _WORD.finditer(text):
        word = match[0].lower().replace("’", "'")
        if word in _NUMBER_WORDS and word != "one":
            yield Item("number", _NUMBER_WORDS[word], match[0], *match.span())
        elif match[0][0].isupper() and not _starts_sentence(text, match.start()) and word not in ("i", "i'm", "i've", "i'd", "i'll"):
            yield Item("name", word, match[0], *match.span())
        if word not in _FUNCTION and len(word) > 1:
            yield Item("word", stem(word), match[0], *match.span())
    for match in _OPERATOR.finditer(text):
        yield Item("operator", match[0].strip(), match[0], *match.span())
    for match in _NEGATION.finditer(text):
        yield Item("negation", "not", match[0], *match.span())
    for match in _LIMIT.finditer(text):
        yield Item("limit", match[0].lower(), match[0], *match.span())


@lru_cache(1024)  # a bank's asks come back with every prompt, a prompt with each of its asks
def words(text: str) -> frozenset[str]:
    """The content words of a text, as stems."""
    return frozenset(item.form for item in items(text) if item.kind == "word")


def stem(word: str) -> str:
    """A word without the endings that a sentence may change: plural, -ing, -ed, possessive."""
    word = word.lower().replace("’", "'").removesuffix("'s").replace("'", "")
    for ending in ("ings", "ing", "ied", "ies", "ed", "es", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 4 and word[-1] == word[-2] else word


def _compare(kind: str, given: list[Item], made: list[Item], rewrite: str, request: str, own_words: bool) -> Iterable[Fault]:
    before = Counter(i.form for i in given if i.kind == kind)
    after = Counter(i.form for i in made if i.kind == kind)
    if kind == "name":
        # A capital alone makes no name: compare without regard to case, against the whole other text.
        before = Counter(
            {i.form: 1 for i in given if i.kind == kind and not re.search(rf"{_NO_LETTER}{re.escape(i.form)}(?![^\W\d_])", rewrite, re.I)}
        )
        after = Counter({i.form: 1 for i in made if i.kind == kind and not re.search(rf"{_NO_LETTER}{re.escape(i.form)}", request, re.I)})
        after -= Counter({form: 1 for form in after if form in _SCAFFOLD or form in _FUNCTION})
    if kind == "placeholder" and not own_words:
        after = Counter()  # "[placeholders] for what is missing" is an ask like any other
    for form in before - after:
        item = next(i for i in given if i.kind == kind and i.form == form)
        if kind in _VERBATIM and (rewrite.count(item.text) >= before[form] or item.text in ("w/o", "w/")):
            continue
        yield Fault("missing", kind, item.text, item.start, item.end)
    if kind in ("negation", "limit") and not own_words:
        return
    for form in after - before:
        item = next(i for i in made if i.kind == kind and i.form == form)
        if kind in _VERBATIM and item.text.lower() in request.lower():
            continue
        yield Fault("new", kind, item.text, item.start, item.end)


_INSERTABLE = frozenset("a an the to of in on for my".split())
_FILLER = frozenset("pls plz please um uh so just".split())
_FILLER_AT_ENDS = _FILLER | frozenset("hey hi hello yo thx thanks thank lol ok okay well can could you u tell me help".split())
"""Words that may go from a request; those of politeness where it begins or ends, for inside it they are what is spoken of: "how to say hello"."""
_TOKEN = re.compile(r"[^\W_]+(?:['’.\-][^\W_]+)*|[.?!;](?=\s)", re.U)


def _unaligned(request: str, own: str, known: Callable[[str], bool] | None) -> Fault | None:
    """The first place where `own` is more than the request mended: word for word in the same order, with words before it that make it a sentence.

    Inside it only small words may be new, and no sentence may end where none ended: "poem about my cat biscuit who sleeps in the sink" asks nothing of
    "Write a poem about my cat's biscuit. Who sleeps in the sink?".
    """
    before, after = list(_TOKEN.finditer(request)), list(_TOKEN.finditer(own))
    i = j = 0
    while j < len(after):
        word = after[j][0]
        fillers = _FILLER_AT_ENDS if i == 0 else _FILLER
        filled = next((k for k in range(i, len(before)) if not _may_go(before[k][0], fillers)), len(before))  # past words that may go
        step = next(
            ((k + s[0], j + s[1]) for k in range(i, min(filled + 1, len(before))) if (s := _same(before, k, after, j, known))), None
        )
        if step:
            i, j = step
        elif (small := word.lower()) in _INSERTABLE or (
            i == 0
            and _may_lead(small, after[j - 1][0].lower() if j else "")
            and not (small in ("how", "why") and _YES_OR_NO.match(request))
        ):
            j += 1
        else:
            return Fault("new", "wording", word, *after[j].span())
    if own.count(",") + own.count(":") > request.count(",") + request.count(":"):
        return Fault("new", "wording", ",", own.rfind(","), own.rfind(",") + 1)
    left = [m for m in before[i:] if not _may_go(m[0], _FILLER_AT_ENDS)]
    return Fault("missing", "wording", left[0][0], *left[0].span()) if left else None


_YES_OR_NO = re.compile(r"\s*(?:can|could|should|is|are|was|were|do|does|did|will|would|may)\b", re.I)


def _may_lead(word: str, last: str) -> bool:
    """Whether a word may stand before the request to make it a sentence; "I" only in a question, as in "How do I"."""
    return (word in _SCAFFOLD or word in _FUNCTION) and (word not in ("i", "we") or last in ("do", "should", "can", "could"))


def _may_go(word: str, fillers: frozenset[str]) -> bool:
    return word in ".?!;" or word.lower() in fillers


def _same(
    before: list[re.Match[str]], i: int, after: list[re.Match[str]], j: int, known: Callable[[str], bool] | None
) -> tuple[int, int] | None:
    """How many words of each side say the same from here on: one and one, or one that is written as two on the other side."""
    mine, its = _letters(before[i][0]), _letters(after[j][0])
    if (
        mine == its
        or {mine, its} == {"a", "an"}
        or _SHORT_FORMS.get(before[i][0].lower()) == after[j][0].lower()
        or _is_mended(before[i][0], after[j][0], known)
    ):
        return 1, 1
    if (mine, its) == ("to", "do") and j + 1 < len(after) and after[j + 1][0] == "I":  # "how to …", "How do I …?"
        return 1, 2
    if i + 1 < len(before) and mine + _letters(before[i + 1][0]) == its:
        return 2, 1
    if j + 1 < len(after) and mine == its + _letters(after[j + 1][0]):
        return 1, 2
    return None


def _letters(word: str) -> str:
    return re.sub(r"['’.\-](?=.)", "", word.lower())


def _plain_number(text: str) -> str:
    return text.rstrip(".,:/").replace(",", "").replace("−", "-")


def _starts_sentence(text: str, position: int) -> bool:
    before = text[:position].rstrip(" \"'“‘([")
    return not before or before[-1] in ".!?:;\n•-–—" or text[:position].endswith("\n")


def _is_covered(word: str, others: dict[str, Item]) -> bool:
    """Whether a word only split, joined or grew an ending: "todo" for "to do", "email" for "e-mail"."""
    form = stem(word)
    return any(form.startswith(o) or o.startswith(form) for o in others if min(len(o), len(form)) >= 4)


def _is_mended(wrong: str, right: str, known: Callable[[str], bool] | None) -> bool:
    """Whether `right` may be the correction of a typo: the first is no word, the second is, and they are near."""
    a, b = wrong.lower(), right.lower()
    if a.replace("'", "") == b.replace("'", ""):
        return True
    if known is None or len(a) < 4 or known(a) or not known(b):
        return False
    # The first letter is hardly ever the typo, and often the difference: "ilegal" is not "legal".
    return a[0] == b[0] and _distance(a, b) <= (1 if len(a) < 6 else 2)


def _distance(a: str, b: str) -> int:
    """Edits (insert, delete, replace, swap neighbours) from one word to the other (Damerau, 1964)."""
    before_last: list[int] = []
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before_last[j - 2] + 1)
            row.append(cost)
        before_last, last = last, row
    return last[-1]
