"""Compare two systems blind: rewrites of the same prompts side by side, with names and sides hidden.

    promptimal-train compare prompt rewrites.jsonl --prompts evaluation.jsonl --out sheets/one
    … readers, or a judge (--judge), write sheets/one/verdicts.jsonl …
    promptimal-train compare prompt rewrites.jsonl --prompts evaluation.jsonl --out sheets/one

A system is "prompt" (the person's own words), or a file of JSON lines with "prompt" and "rewrite", such as `promptimal --jsonl` writes.
`sheet.jsonl` is what readers see, `key.jsonl` tells afterwards which side was which. A verdict is
{"id": 7, "better": "first" | "second" | "same", "fault": "…", "judge": "…"}; the fault, if any, is the loser's, and `judge` the model that judged, if one did.
"""

import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from promptimal_trainer.calls import Address, Call, Server, end_line, read_record
from promptimal_trainer.pairs import BadPairs, read_lines, read_prompts, write_lines

JUDGING = """\
A person typed a prompt for a chatbot. You see two candidates to be sent in its place, in random order; one may be the prompt as it was typed.
Choose the one whose ANSWER would serve that person better, or "same".
Worse: changes or narrows what was asked; drops or alters what was given; invents; answers; contradicts or repeats itself; is garbled or cut off;
adds demands that hardly fit. Better: with all that intact, clearer, and asking for what the person would want.
Richer but changed loses to plain but faithful. Judge by meaning, not by length."""


_SIDES = ("first", "second", "same")


class Unjudged(BadPairs):
    """A sheet that is not judged to its end; the message names the first pair without a verdict."""


class Row(NamedTuple):
    """Wins, ties and losses of B against A for the prompts of one kind."""

    kind: str
    wins: int
    ties: int
    losses: int

    @property
    def total(self) -> int:
        return self.wins + self.ties + self.losses


def make_sheet(a: str, b: str, prompts: Path, out: Path, seed: int = 0) -> int:
    """Write `sheet.jsonl` and `key.jsonl`; the number of pairs to judge. Where both systems say the same, nobody is asked.

    Raises BadPairs where a system has no rewrite of a prompt, or `out` holds another sheet: its verdicts are of that one.
    """
    records = read_prompts(prompts)
    sides = _rewrites(a, records), _rewrites(b, records)
    order = random.Random(seed)
    sheet, key = [], []
    for number, record in enumerate(records):
        pair = sides[0][number], sides[1][number]
        flipped = order.random() < 0.5
        same = pair[0].strip() == pair[1].strip()
        key.append({"id": number, "kind": record.get("kind", record.get("category", "")), "first": "B" if flipped else "A", "same": same})
        if not same:
            first, second = reversed(pair) if flipped else pair
            sheet.append({"id": number, "prompt": record["prompt"], "first": first, "second": second})
    order.shuffle(sheet)
    files = {"key.jsonl": key, "sheet.jsonl": sheet}  # the key first: no sheet is ever without it
    if (out / "sheet.jsonl").exists():
        for path, lines in ((out / name, lines) for name, lines in files.items() if (out / name).exists()):
            if [line for _, line in read_lines(path)] != lines:
                raise BadPairs(f"{path} is of other systems or prompts, and so are its verdicts: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        write_lines(out / name, lines)
    (out / "JUDGING.txt").write_text(JUDGING + "\n", encoding="utf-8")
    return len(sheet)


class Outcome(NamedTuple):
    """What became of one prompt: B `won`, `tied` or `lost`, and the fault named of it. The texts are empty where both systems said the same."""

    kind: str
    prompt: str
    b: str
    result: str
    fault: str = ""


def outcomes(out: Path) -> Iterator[Outcome]:
    """The outcome of every prompt of a sheet. Raises Unjudged where a verdict is missing or faulty, BadPairs where sheet or key is."""
    verdicts = _verdicts(out)
    pairs = {record["id"]: record for _, record in read_lines(out / "sheet.jsonl")}
    for _, entry in read_lines(out / "key.jsonl"):
        if entry["same"]:
            yield Outcome(entry["kind"], "", "", "tied")
            continue
        verdict, pair = verdicts.get(entry["id"]), pairs[entry["id"]]
        if verdict is None:
            raise Unjudged(f"{out / 'verdicts.jsonl'}: no verdict for pair {entry['id']} that can be read")
        side = "first" if entry["first"] == "B" else "second"
        result = "tied" if verdict["better"] == "same" else "won" if verdict["better"] == side else "lost"
        yield Outcome(entry["kind"], pair["prompt"], pair[side], result, verdict.get("fault") or "none named")


def judges(out: Path) -> list[str]:
    """Who judged a sheet: the names of models, and "readers" where a verdict names none."""
    return sorted({str(verdict.get("judge") or "readers") for verdict in _verdicts(out).values()})


def tally(out: Path) -> tuple[list[Row], Counter[str]]:
    """Rows by kind and in all (the last one), and the faults of B where it lost. Raises Unjudged and BadPairs as `outcomes` does."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    faults: Counter[str] = Counter()
    for outcome in outcomes(out):
        counts[outcome.kind][outcome.result] += 1
        if outcome.result == "lost":
            faults[outcome.fault] += 1
    rows = [Row(kind, c["won"], c["tied"], c["lost"]) for kind, c in counts.items()]
    return [*rows, Row("all", *(sum(getattr(r, f) for r in rows) for f in ("wins", "ties", "losses")))], faults


def table(rows: list[Row], faults: Counter[str], judges: Sequence[str] = ()) -> str:
    """The rows as a Markdown table, with the Wilson interval of the share won, and under it the faults and who judged."""
    lines = ["| kind | prompts | won | tied | lost | won, 95% interval |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        low, high = wilson(row.wins, row.total)
        lines.append(
            f"| {row.kind} | {row.total} | {row.wins / row.total:.0%} | {row.ties / row.total:.0%} | {row.losses / row.total:.0%}"
            f" | {low:.0%} to {high:.0%} |"
        )
    if faults:
        lines += ["", "Faults named where it lost: " + ", ".join(f"{fault} {n}" for fault, n in faults.most_common(12)) + "."]
    if judges:
        lines += ["", f"Judged by {', '.join(judges)}."]
    return "\n".join(lines)


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share (Wilson, 1927)."""
    if not count:
        return 0.0, 1.0
    share = hits / count
    middle = share + z * z / (2 * count)
    spread = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (middle - spread) / (1 + z * z / count)), min(1.0, (middle + spread) / (1 + z * z / count))


def ask_judge(out: Path, url: str, model: str) -> None:
    """Have an OpenAI-compatible server judge the sheet and write `verdicts.jsonl`, a line as each verdict comes, so that it can be gone on with.

    Raises calls.NoAnswer where the server fails, BadPairs where it gave no verdict on some pairs: asked again, it is asked those.
    """
    path = out / "verdicts.jsonl"
    done = _verdicts(out)
    waiting = [pair for _, pair in read_lines(out / "sheet.jsonl") if pair["id"] not in done]
    unread = []
    end_line(path)
    answers = Server(Address(url, model)).each(Call(_question(pair)) for pair in waiting)
    with path.open("a", encoding="utf-8") as file:
        for number, answer in tqdm(answers, total=len(waiting), desc="judging", unit="pair", file=sys.stderr):
            verdict = _verdict(answer.text)
            if verdict is None:
                unread.append(waiting[number]["id"])
                continue
            file.write(json.dumps({"id": waiting[number]["id"], **verdict, "judge": model}) + "\n")
            file.flush()
    if unread:
        raise BadPairs(f"the judge at {url} gave no verdict on {len(unread)} of {len(waiting)} pairs, such as pair {min(unread)}")


def _verdicts(out: Path) -> dict[Any, dict[str, Any]]:
    """The verdicts that there are on a sheet, by the number of the pair."""
    return {record.get("id"): record for record in read_record(out / "verdicts.jsonl") if record.get("better") in _SIDES}


def _question(pair: dict[str, Any]) -> str:
    return (
        f"{JUDGING}\n\nPrompt as typed:\n<<<\n{pair['prompt']}\n>>>\n\nFirst:\n<<<\n{pair['first']}\n>>>\n\nSecond:\n<<<\n{pair['second']}\n>>>\n\n"
        'Reply with one JSON object and nothing else: {"better": "first" or "second" or "same", "fault": "the loser\'s fault in at most three words, or empty"}'
    )


def _verdict(text: str) -> dict[str, str] | None:
    """The verdict in a judge's answer, None where there is none."""
    try:
        verdict = json.loads(text[text.index("{") : text.rindex("}") + 1])
        better = verdict["better"]
    except (ValueError, KeyError, TypeError):
        return None
    return {"better": better, "fault": str(verdict.get("fault", ""))} if better in _SIDES else None


def _rewrites(system: str, records: list[dict[str, Any]]) -> list[str]:
    if system == "prompt":
        return [record["prompt"] for record in records]
    known = {record["prompt"]: record["rewrite"] for record in read_prompts(Path(system)) if isinstance(record.get("rewrite"), str)}
    try:
        return [known[record["prompt"]] for record in records]
    except KeyError as error:
        raise BadPairs(f"{system}: no rewrite of the prompt {str(error)[:80]}") from error
