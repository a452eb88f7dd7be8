"""Select: the best of each chain that beats its own original and keeps what was given; near-duplicates and evaluation prompts go.

Writes `pairs.jsonl`, what `promptimal-train finetune` trains on. Pairs of one prompt (one a chain) stay together: finetune splits by the
prompt's hash (`held_out` in its recipe), never by pair.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from promptimal import fidelity, passage
from promptimal_trainer.check import near_duplicates
from promptimal_trainer.pairs import read_prompts
from promptimal_trainer.pipeline import records
from promptimal_trainer.pipeline.recipe import Recipe
from promptimal_trainer.pipeline.records import Record, best
from promptimal_trainer.whole_file import whole

CATEGORY = {"choice": "choice", "code": "code", "open": "other"}
_KEPT = ("link", "quotation", "code", "placeholder", "number", "negation", "limit", "name")
_MAY_GO = 1 / 3
"""Share of a prompt's content words that may be said otherwise."""
_SMALL = ("1", "2", "3")
_TO_THE_CHATBOT = ("You ", "Your ", "Please ")


def select(refined: Path, out: Path, recipe: Recipe) -> Counter[str]:
    """Write the pairs; how many chains came to what: "pair", or why there is none."""
    fates: Counter[str] = Counter()
    evaluation = [record["prompt"] for path in recipe.against for record in read_prompts(Path(path))]
    prompts = [pairs[0]["prompt"] for record in records.read(refined) if (pairs := list(_pairs(record, Counter())))]
    near = {later - len(evaluation): earlier < len(evaluation) for later, earlier in near_duplicates(evaluation + prompts)}
    number = 0
    with whole(out) as file:
        for record in records.read(refined):
            pairs = list(_pairs(record, fates))
            if pairs and number in near:
                fates["pair"] -= len(pairs)
                fates["near an evaluation prompt" if near[number] else "near another prompt"] += len(pairs)
            else:
                file.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
            number += bool(pairs)
    return fates


def unfaithful(record: Record, improved: str) -> str | None:
    """What the improved prompt lost of the question or brings in, in words; None where it is faithful.

    A strong teacher may use words of its own for some of the person's; the things that carry a request may not go, nor may numbers, links and quotations come.
    A weak one answers: a new sentence must ask, demand, or speak to the chatbot ("You are …").
    """
    text, typed = record.question.text, record.question.text.strip()
    for segment in passage.split(typed):
        if passage.is_material(segment) and segment.text.strip() not in improved:
            return f"lost pasted material: {segment.text.strip()[:40]}"
    for choice in record.question.choices:
        if choice.strip() not in improved:
            return f"lost the option {choice.strip()[:40]}"
    faults = fidelity.check(text, improved)
    words = {item.form for item in fidelity.items(text) if item.kind == "word"}
    lost = [fault.text for fault in faults if fault.problem == "missing" and fault.kind == "word"]
    if len(lost) > _MAY_GO * len(words):
        return f"lost words: {', '.join(lost[:5])}"
    for fault in faults:
        if fault.problem == "missing" and fault.kind in _KEPT:
            return str(fault)
        if fault.problem == "new" and fault.kind in ("link", "number", "quotation") and fault.text not in _SMALL:
            return str(fault)
    kept = improved.startswith(typed)
    written = improved.removeprefix(typed)
    if kept and any(map(passage.is_material, passage.split(written))):
        return "adds a text of its own"
    for sentence in _sentences(written):
        asks = sentence.endswith("?") or fidelity.demands(sentence) or sentence.startswith(_TO_THE_CHATBOT)
        if not asks and (kept or _is_new(sentence, words)):
            return f"states instead of asking: {sentence[:40]}"
    return None


def _sentences(text: str) -> Iterator[str]:
    """The sentences of what is not pasted, without the numbers and dashes of a list."""
    for segment in passage.split(text):
        if not passage.is_material(segment):
            for sentence in re.split(r"(?<=[.!?:])\s+|\n+", segment.text):
                if re.search(r"[^\W\d]", bare := re.sub(r"\A\W*(?:\d+[.)]\s+)?", "", sentence).strip()):
                    yield bare


def _is_new(sentence: str, given: set[str]) -> bool:
    """Whether most of a sentence's content words are not among those given."""
    words = [item.form for item in fidelity.items(sentence) if item.kind == "word"]
    return 2 * sum(word in given for word in words) < len(words)


def _pairs(record: Record, fates: Counter[str]) -> Iterator[dict[str, Any]]:
    seen = set()
    for number, chain in enumerate(record.chains, 1):
        attempt, original = best(chain), record.original
        if attempt is None:
            fates["no attempt could be scored"] += 1
        elif original is None or original.score is None or attempt.score is None or attempt.score <= original.score:
            fates["not better than the original"] += 1
        elif unfaithful(record, attempt.prompt):
            fates["not faithful"] += 1
        elif attempt.prompt in seen:
            fates["the same as another version"] += 1
        else:
            fates["pair"] += 1
            seen.add(attempt.prompt)
            yield {
                "category": CATEGORY[record.question.kind],
                "prompt": record.question.text,
                "improved": attempt.prompt,
                "score": attempt.score,
                "gain": round(attempt.score - original.score, 6),
                "origin": f"{record.question.id}#{number}",
            }
