"""A report of runs from their own records: one page of HTML that needs nothing else, and the same as Markdown.

    promptimal-train report runs/mine
    promptimal-train report runs/a runs/b --out reports/both

The page works without scripts and without a network, light and dark, and prints. What people or models wrote is escaped in both files.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from promptimal_trainer import compare, plots, record
from promptimal_trainer.plots import Line, Point
from promptimal_trainer.record import BadRecord, Example, Record
from promptimal_trainer.whole_file import whole

__all__ = ["BadRecord", "results", "sections", "text", "write"]

_SYSTEMS = {"prompt": "prompt as typed", "rewriter": "this rewriter", "base": "untuned base, instructed"}
_MEASURES = {"accuracy": "accuracy", "passed": "tests passed", "reward": "mean reward"}
_MOST_EXAMPLES = 12
_SHOWN_OF_KEPT = 300  # characters of each end of a long passage that was kept


@dataclass(frozen=True)
class Table:
    """Rows of texts under a head; the first column names what a row is of."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Change(NamedTuple):
    """A stretch of words: "kept", "added" or "removed"."""

    kind: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of a report: some sentences, tables, plots and examples under a title."""

    title: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Callable[[], str]] = ()
    """Each draws itself where a page has room for it."""
    examples: Sequence[tuple[str, list[Change]]] = ()


def write(runs: Sequence[Path], out: Path) -> list[Path]:
    """Write `report.html` and `report.md` of runs into `out`; their paths. Raises BadRecord."""
    reports = [(found.name, list(sections(found))) for found in map(record.read, runs)]
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, written in (
        ("report.html", _html(reports)),
        ("report.md", "\n".join(f"# {_plain(name)}\n\n{text(found)}" for name, found in reports)),
    ):
        with whole(out / name) as file:
            file.write(written)
        paths.append(out / name)
    return paths


def results(evaluation: dict[str, Any]) -> str:
    """An evaluation's tables as Markdown."""
    return "\n\n".join(_markdown_table(table) for section in _evaluated(evaluation) for table in section.tables)


def text(found: Iterable[Section], level: int = 2) -> str:
    """Sections as Markdown, their titles at a level."""
    blocks = []
    for section in found:
        blocks.append(f"{'#' * level} {_plain(section.title)}")
        blocks += [_plain(note) for note in section.notes]
        blocks += [_markdown_table(table) for table in section.tables]
        blocks += [_markdown_example(kind, parts) for kind, parts in section.examples]
    return "\n\n".join(blocks) + "\n"


def sections(run: Record) -> Iterator[Section]:
    """What there is to tell of a run."""
    if run.card:
        yield _training(run)
    if run.rounds:
        yield _data(run)
    if run.evaluation:
        yield from _evaluated(run.evaluation)
    for sheet in run.sheets:
        yield _compared(sheet)
    if run.unjudged:
        yield Section("Sheets left out", [f"Not judged to the end: {', '.join(run.unjudged)}."])
    if run.examples:
        changed = [example for example in run.examples if example.prompt.strip() != example.rewrite.strip()]
        examples = [(e.kind, [_short(change) for change in changes(e)]) for e in changed[:_MOST_EXAMPLES]]
        note = f"{len(changed)} of {len(run.examples)} prompts were changed; the first {len(examples)} of them. Added words are underlined, removed ones struck out."
        yield Section("Examples", [note], examples=examples)


def shown(base: str) -> str:
    """A base's name; of a folder the last part alone, for where it lies is nobody's business."""
    return Path(base).name if base.startswith(("/", ".", "~")) else base


def changes(example: Example) -> list[Change]:
    """What a rewrite kept, added and removed, word by word, in the rewrite's order; joined without the removed it is the rewrite."""
    before, after = (re.findall(r"\s+|[^\s]+", text) for text in (example.prompt.strip(), example.rewrite.strip()))
    found: list[Change] = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            found.append(Change("kept", "".join(after[k:m])))
            continue
        found += [Change(name, "".join(words)) for name, words in (("removed", before[i:j]), ("added", after[k:m])) if words]
    return found


def _short(change: Change) -> Change:
    """A change without the middle of what is long and was kept."""
    if change.kind != "kept" or len(change.text) <= 2 * _SHOWN_OF_KEPT:
        return change
    return Change("kept", f"{change.text[:_SHOWN_OF_KEPT]} […] {change.text[-_SHOWN_OF_KEPT:]}")


def _training(run: Record) -> Section:
    card = run.card
    scores = card.get("held_out") or []
    names = [name for name in ("loss", "words", "asks", "first_helps", "first_harms") if any(s.get(name) is not None for s in scores)]
    facts = Table(
        ["", ""],
        [
            ["base", shown(str(card.get("base", "")))],
            ["data", f"{card.get('data', '')} ({card.get('data_sha256', '')[:12]})"],
            *([[f"pairs, {name.replace('_', ' ')}", f"{count:,}"] for name, count in card.get("pairs", {}).items()]),
            ["speed", f"{card['tokens_per_second']:,} tokens/s" if card.get("tokens_per_second") else ""],
            *([[name, str(value)] for name, value in card.get("recipe", {}).items() if name != "base"]),
        ],
    )
    epochs = Table(
        ["epoch", *(n.replace("_", " ") for n in names)], [[str(e), *(_number(s.get(n)) for n in names)] for e, s in enumerate(scores)]
    )
    steps = [(entry["step"], entry["loss"]) for entry in run.log if "loss" in entry]
    series = [Line("training", [step for step, _ in steps], [loss for _, loss in steps], markers=False)] if steps else []
    if steps and scores:
        a_step = steps[-1][0] / max(1, len(scores) - 1)
        series.append(Line("held out", [a_step * e for e in range(len(scores))], [s["loss"] for s in scores]))
    return Section(
        "Training",
        ["Loss is in nats: of a written token, and a share of the asks' ratings. Epoch 0 is the untuned base."],
        [epochs, facts],
        [partial(plots.lines, series, "update", "loss")] if series else [],
    )


def _data(run: Record) -> Section:
    stages = ["as typed", "as proposed"]
    length = max(len(r.scores) for r in run.rounds)
    stages += [f"round {n}" for n in range(1, length - len(stages) + 1)]
    table = Table(
        ["kind", "chains", *stages[:length]],
        [[r.kind, str(r.chains), *(_number(score) for score in r.scores)] for r in run.rounds],
    )
    series = [Line(r.kind, range(len(r.scores)), r.scores) for r in run.rounds]
    plot = partial(plots.lines, series, "0 as typed, 1 as proposed, then rounds", "mean best score")
    return Section(
        "Score by round", ["The mean of the best score that each chain had reached, from the prompt as typed on."], [table], [plot]
    )


def _evaluated(found: dict[str, Any]) -> Iterator[Section]:
    systems = found.get("systems", {})
    held = found.get("held_out")
    rewrites = [
        [
            _SYSTEMS.get(name, name),
            _share(s["faithful"]),
            _share(s["unchanged"]),
            _share(s["answered"]),
            _share(s["answers_refused"]),
            f"{s['length_ratio']['median']:.2f}",
            f"{s['cost']['seconds'] / max(1, s['cost']['calls']):.2f} s",
        ]
        for name, s in systems.items()
        if "faithful" in s
    ]
    head = [
        "rewrites by",
        "faithful",
        "left unchanged",
        "answer instead",
        "answers refused on the way",
        "length, median ratio",
        "time a prompt",
    ]
    held_out = [Table(["held out", ""], [[k.replace("_", " "), _number(v)] for k, v in held.items() if k != "of_this_run"])] if held else []
    notes = [f"Model {found['model']['file']}; {_counts(found['questions']['kinds'])}; measured on: {found['machine']}."]
    if held and held.get("of_this_run") is False:
        notes.append("The held-out pairs are not of the data that this run was trained on.")
    notes += [f"Left out: {text}." for text in found.get("left_out", [])]
    yield Section("Evaluation", notes, [*([Table(head, rewrites)] if rewrites else []), *held_out])
    if any(measure in s for s in systems.values() for measure in _MEASURES):
        yield _answered(found)
    if found.get("opro", {}).get("curve"):
        yield _searched(found["opro"])


def _answered(found: dict[str, Any]) -> Section:
    systems = found["systems"]
    measures = [m for m in _MEASURES if any(m in s for s in systems.values())]
    head = [
        "prompts by",
        *(text for m in measures for text in (_MEASURES[m], "gain over the prompts as typed")),
        "letter not readable",
        "tokens a call",
    ]
    rows, points = [], []
    for name, system in systems.items():
        row = [_SYSTEMS.get(name, name)]
        for measure in measures:
            value, gain = system.get(measure, {}), system.get(f"{measure}_gain")
            row += [_share(value) if "share" in value else _number(value.get("mean")), _gain(gain)]
            if gain:
                points.append(Point(f"{_SYSTEMS.get(name, name)}, {_MEASURES[measure]}", gain["mean"], gain["low"], gain["high"]))
        rows.append([*row, str(system.get("unread", "")), str(system.get("answer_tokens", ""))])
    answerer = found["answerer"]
    note = f"Answered by {answerer['model']}: {_cost(answerer['cost'])}. Intervals are of 95%: Wilson's for shares, bootstrapped for gains."
    notes = [note, *([f"Rewards by {answerer['reward_model']}, each against the prompt as typed."] if "reward" in measures else [])]
    plot = [partial(plots.intervals, points, "gain over the prompts as typed", 0)] if points else []
    return Section("Answers", notes, [Table(head, rows)], plot)


def _searched(found: dict[str, Any]) -> Section:
    curve, systems = found["curve"], found["systems"]
    questions = found["questions"]

    def test(score: float) -> str:
        if found["measure"] == "reward":
            return _number(score)
        low, high = compare.wilson(round(score * questions["tested"]), questions["tested"])
        return f"{score:.0%} ({low:.0%} to {high:.0%})"

    rows = [
        [
            f"search, generation {s['generation']}",
            _number(s["score"]),
            test(s["test"]),
            *_cost_cells(s["cost"]),
            s["instruction"] or "(nothing added)",
        ]
        for s in curve
    ]
    rows += [[_SYSTEMS.get(name, name), "", test(s["test"]), *_cost_cells(s["cost"]), ""] for name, s in systems.items()]
    notes = [
        f"OPRO (Yang et al. 2023) with {found['optimizer']}: instructions searched on {questions['searched']} questions, tested on {questions['tested']} others; "
        f"the score is {_MEASURES[found['measure']]}. Costs of the search are its own calls, for one instruction that serves all questions; a rewriter's are "
        "a call a prompt, for each prompt anew. Answering the rewritten prompts is in neither."
    ]
    series = [Line("search, best so far", [s["cost"]["tokens"] for s in curve], [s["test"] for s in curve])]
    series += [Line(_SYSTEMS.get(name, name), [s["cost"]["tokens"]], [s["test"]]) for name, s in systems.items()]
    head = ["way", "score searched with", "score on test", "calls", "tokens", "seconds", "instruction"]
    plot = partial(plots.lines, series, "tokens spent on writing prompts (logarithmic)", _MEASURES[found["measure"]], log=True)
    return Section("Quality against cost", notes, [Table(head, rows)], [plot])


def _compared(sheet: record.Sheet) -> Section:
    rows, points = [], []
    for row in sheet.rows:
        low, high = compare.wilson(row.wins, row.total)
        rows.append([row.kind or "other", *map(str, (row.total, row.wins, row.ties, row.losses)), f"{low:.0%} to {high:.0%}"])
        if decided := row.wins + row.losses:
            points.append(Point(row.kind or "other", row.wins / decided, *compare.wilson(row.wins, decided)))
    table = Table(["kind", "prompts", "won", "tied", "lost", "won, 95% interval"], rows)
    notes = ["How often B was preferred to A; neither names nor sides were shown."]
    notes += [f"Judged by {', '.join(sheet.judges)}."] if sheet.judges else []
    return Section(
        f"Blind comparison: {sheet.name}",
        notes,
        [table],
        [partial(plots.intervals, points, "share of the decided pairs that was won", 0.5)] if points else [],
    )


def _share(value: dict[str, Any]) -> str:
    return f"{value['share']:.0%} ({value['low']:.0%} to {value['high']:.0%}) of {value['count']}"


def _gain(value: dict[str, Any] | None) -> str:
    return f"{value['mean']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f})" if value else ""


def _cost(value: dict[str, Any]) -> str:
    return f"{value['calls']:,} calls, {value['tokens']:,} tokens, {value['seconds']:,} s"


def _cost_cells(value: dict[str, Any]) -> list[str]:
    return [f"{value['calls']:,}", f"{value['tokens']:,}", f"{value['seconds']:,}"]


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _counts(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} questions of kind {kind}" for kind, count in kinds.items())


def _html(reports: Iterable[tuple[str, list[Section]]]) -> str:
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    reports = list(reports)
    drawn = iter(plots.apart([draw() for _, found in reports for section in found for draw in section.plots]))
    pages = [(name, [(section, [Markup(next(drawn)) for _ in section.plots]) for section in found]) for name, found in reports]
    environment = Environment(loader=PackageLoader("promptimal_trainer", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html").render(reports=pages)


def _markdown_table(table: Table) -> str:
    rows = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join("| " + " | ".join(text if text == "---" else _plain(text) for text in row) + " |" for row in rows)


_MARKS = {"kept": "{}", "added": "<ins>{}</ins>", "removed": "<del>{}</del>"}


def _markdown_example(kind: str, parts: Sequence[Change]) -> str:
    text = "".join(_MARKS[change.kind].format(_plain(change.text, keep_lines=True)) for change in parts)
    return f"**{_plain(kind)}**\n\n" + "\n".join(f"> {line}" for line in text.split("\n"))


def _plain(text: str, keep_lines: bool = False) -> str:
    """A text that Markdown shows as it is: no markup, no HTML, and in a table no new cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", text)
    return text.replace("\n", "  \n") if keep_lines else " ".join(text.split())
