"""Measure a fine-tuned rewriter by what its rewrites do, beside the prompts as typed, the untuned base and a search for an instruction (OPRO).

    promptimal-train evaluate runs/mine
    promptimal-train evaluate runs/mine --questions mmlu:mmlu/ --limit 60 --answerer http://localhost:8080/v1 --opro 5

Rewrites go the way that `promptimal` runs. What needs a server or a reward model is left out where none is given, and the result says so.
Writes into the run's directory `evaluation.json`, and `evaluation/`: rewrites, sheets for readers, and `calls.jsonl`, every answer of a server as
it came, so that the same command, started again, pays for nothing twice. A run may also be a GGUF file; its record stands beside it.
"""

import contextlib
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean as mean
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from promptimal import models
from promptimal.engine import Engine
from promptimal.rewrite import Rewrite
from promptimal_trainer import compare, held_out, opro, pairs
from promptimal_trainer.calls import Address, Answer, Call, Cost, NoAnswer, Server, cost
from promptimal_trainer.errors import TrainError
from promptimal_trainer.scoring import MEASURE, Scorer, gain, kept, letter, share
from promptimal_trainer.whole_file import whole

if TYPE_CHECKING:
    from promptimal_trainer.sources import Question

PROMPTS = pairs.DEFAULT.parent / "evaluation.jsonl"
"""The project's own evaluation prompts, which nobody trains on."""

_LEAST_FOR_SEARCH = 4


class BadRun(TrainError):
    """A run that cannot be evaluated; the message says why."""


@dataclass(frozen=True)
class Plan:
    """What to measure with. What is None is left out."""

    questions: tuple[str, ...] = (f"own:{PROMPTS}",)
    limit: int | None = None
    """Questions taken of each source, drawn at random but always the same."""
    data: Path = pairs.DEFAULT
    answerer: Address | None = None
    reward: str | None = None
    judge: Address | None = None
    optimizer: Address | None = None
    generations: int = 0


@dataclass
class System:
    """One way to treat prompts: what it makes of each question's text, what that cost, and how each was answered, as far as it could be scored."""

    texts: list[str]
    cost: Cost = field(default_factory=Cost)
    rewrites: list[Rewrite] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)


def evaluate(run: Path, plan: Plan) -> dict[str, Any]:
    """Everything that the plan allows, as it stands in `evaluation.json` afterwards.

    Raises BadRun, base.BadBase, sources.BadSource, reward.BadReward, engine.BadModel. A server that fails, or a base
    that is not here, leaves its part out; the rest is measured all the same.
    """
    place = directory(run)
    model = _model(run, place)
    questions = _questions(plan)
    scorer = Scorer(plan.reward if plan.answerer else None)
    result: dict[str, Any] = {
        "run": run.resolve().name,
        "model": {"file": model.name, "sha256": pairs.sha256(model)},
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}, Python {platform.python_version()}",
        "questions": {"sources": [_named(spec) for spec in plan.questions], "kinds": dict(Counter(q.kind for q in questions))},
        "systems": {},
        "left_out": [],
    }
    systems = {"prompt": System([q.text for q in questions])}

    def part(name: str, measure: Callable[[], Any]) -> None:
        """One part of the result, saved as soon as it is there."""
        try:
            measure()
        except (NoAnswer, pairs.BadPairs) as error:
            result["left_out"].append(f"{name}: {error}")
        _save(place / "evaluation.json", result)

    def rewrite(name: str, file: Path) -> None:
        systems[name] = _rewritten(file, questions, place / "evaluation" / f"{name}.jsonl")
        result["systems"][name] = {**kept(systems[name].rewrites), "cost": systems[name].cost.table()}

    def rewrite_by_base() -> None:
        try:
            base = _base(run, place)
        except TrainError as error:
            _say(str(error))  # the record names no folders: it may be published
            result["left_out"].append("the untuned base: it is not here, or cannot be converted")
            return
        if base is None:
            result["left_out"].append("the untuned base: this model does not tell which it is")
            return
        rewrite("base", base)

    (place / "evaluation").mkdir(parents=True, exist_ok=True)
    pairs.write_lines(place / "evaluation" / "prompts.jsonl", ({"kind": q.kind, "prompt": q.text} for q in questions))
    part("held-out loss", lambda: result.update(held_out=_held_out(model, run, plan.data)))
    part("the rewriter", lambda: rewrite("rewriter", model))
    part("the untuned base", rewrite_by_base)
    part("answers", lambda: _answers(systems, questions, plan, scorer, place, result))
    part("the search", lambda: _search(systems, questions, plan, scorer, place, result))
    part("the judge", lambda: _judged(systems, plan, place, result))
    return result


def directory(run: Path) -> Path:
    """Where a run's record is: the run's directory itself, or for a GGUF file a directory of its name beside it."""
    return run.with_suffix("") if run.is_file() else run


def _held_out(model: Path, run: Path, data: Path) -> dict[str, Any]:
    """Scores on the pairs that the run did not train on, and whether these are the data it was trained on."""
    from promptimal.asks import read_bank

    card = read_card(run)
    found = models.find(str(model), _say)
    if found.template is None:
        raise pairs.BadPairs("the model is none of ours: it names no prompt format")
    held = [p for p in pairs.read(data) if pairs.is_held_out(p.prompt, card.get("recipe", {}).get("held_out", 0.05))]
    if not held:
        raise pairs.BadPairs(f"{data}: none of its pairs is held out")
    engine = Engine(model, width=1, context=1024, states=True)
    try:
        bank = read_bank(found.asks) if found.asks else None
        scores = held_out.scores(engine, found.template, bank, tqdm(held, desc="held-out pairs", unit="pair", file=sys.stderr))
    finally:
        engine.close()
    same = card.get("data_sha256") == pairs.sha256(data) if card.get("data_sha256") else None
    return {**held_out.summary(scores), "pairs": len(held), "data": data.name, "of_this_run": same}


def _rewritten(model: Path, questions: Sequence["Question"], path: Path) -> System:
    """Every question's text, rewritten as `promptimal --model` rewrites it; or as `path` has it from before, so that nobody is asked about other words."""
    identity = pairs.sha256(model)[:12]
    lines = [line for _, line in pairs.read_lines(path)] if path.exists() else []
    if [(line.get("prompt"), line.get("model")) for line in lines] != [(q.text, identity) for q in questions]:
        lines = _rewrite(model, identity, questions, path.stem)
        pairs.write_lines(path, lines)
    spent = Cost(len(lines), sum(line["tokens"] for line in lines), sum(line["seconds"] for line in lines))
    rewrites = [Rewrite(r["prompt"], r["rewrite"], r["rewrite"], tuple(r["asks"]), faults=tuple(r["faults"])) for r in lines]
    return System([r.text for r in rewrites], spent, rewrites)


def _rewrite(model: Path, identity: str, questions: Sequence["Question"], name: str) -> list[dict[str, Any]]:
    """A line for each question; the seconds are shared out evenly, for many are rewritten at once."""
    rewriter = models.load(models.Choice(name=str(model)), _say, many=True)
    try:
        started = time.monotonic()
        found = rewriter.rewrite_all(q.text for q in questions)
        bar = tqdm(found, total=len(questions), desc=f"rewriting ({name})", unit="prompt", file=sys.stderr)
        rewrites = [rewrites[0] for rewrites in bar]
        seconds = round((time.monotonic() - started) / len(questions), 4)
        return [
            {
                "kind": question.kind,
                "prompt": question.text,
                "rewrite": rewrite.text,
                "asks": list(rewrite.asks),
                "faults": list(rewrite.faults),
                "model": identity,
                "tokens": rewriter.count(question.text) + sum(map(rewriter.count, rewrite.asks)),
                "seconds": seconds,
            }
            for question, rewrite in zip(questions, rewrites, strict=True)
        ]
    finally:
        rewriter.close()


def _answers(
    systems: dict[str, System], questions: Sequence["Question"], plan: Plan, scorer: Scorer, place: Path, result: dict[str, Any]
) -> None:
    """Have the answerer answer every system's prompts; accuracy, reward and pass rate, and the gain over the prompts as typed."""
    if plan.answerer is None:
        result["left_out"].append("accuracy and reward of the answers: no --answerer")
        return
    result["left_out"] += scorer.lacks({q.kind for q in questions})
    server = Server(plan.answerer, place / "evaluation" / "calls.jsonl")
    told = result["answerer"] = {"model": plan.answerer.model, "cost": server.spent.table(), "reward_model": plan.reward}
    for name, system in systems.items():
        try:
            answers = answer(server, system.texts, f"answers ({name})")
        finally:  # what came before a failure is paid for, and told
            told["cost"] = server.spent.table()
        system.scores = scorer(questions, answers)
        entry = result["systems"].setdefault(name, {})
        for kind in sorted({q.kind for q in questions}):
            rows = [row for row, q in enumerate(questions) if q.kind == kind and system.scores[row] is not None]
            if not rows:
                continue
            mine, typed = ([float(s.scores[row] or 0) for row in rows] for s in (system, systems["prompt"]))
            entry[MEASURE[kind]] = {"mean": round(mean(mine), 4), "count": len(rows)}
            if kind != "open":
                entry[MEASURE[kind]] = share(round(sum(mine)), len(rows))
            if name != "prompt":
                entry[f"{MEASURE[kind]}_gain"] = gain(typed, mine)
        entry["answer_tokens"] = round(mean(a.tokens for a in answers), 1)
        entry["unread"] = sum(q.kind == "choice" and letter(a.text, q) is None for q, a in zip(questions, answers, strict=True))


def answer(server: Server, prompts: Sequence[str], told: str = "") -> list[Answer]:
    """The server's answers to prompts, greedily, with a progress bar if it is told what for."""
    calls = [Call(prompt) for prompt in prompts]
    bar = tqdm(server.each(calls), total=len(calls), desc=told, unit="answer", file=sys.stderr, disable=not told)
    found = dict(bar)
    return [found[number] for number in range(len(calls))]


def _search(
    systems: dict[str, System], questions: Sequence["Question"], plan: Plan, scorer: Scorer, place: Path, result: dict[str, Any]
) -> None:
    """OPRO on half of the questions; after each generation the best instruction's score on the other half, beside the systems' and what each cost."""
    if not plan.generations or plan.answerer is None:
        result["left_out"].append(f"the search for an instruction (OPRO): no {'--opro' if plan.answerer else '--answerer'}")
        return
    rows = [row for row, q in enumerate(questions) if q.kind == "choice"]
    if len(rows) < _LEAST_FOR_SEARCH and plan.reward:
        rows = [row for row, q in enumerate(questions) if q.kind == "open"]
    if len(rows) < _LEAST_FOR_SEARCH:
        result["left_out"].append("the search for an instruction (OPRO): it needs multiple-choice questions, or open ones and --reward")
        return
    half, other = rows[::2], rows[1::2]
    record = place / "evaluation" / "calls.jsonl"
    server, optimizer = Server(plan.answerer, record), Server(plan.optimizer or plan.answerer, record)

    def score(instruction: str, rows: Sequence[int]) -> opro.Scored:
        asked = [questions[row] for row in rows]
        answers = answer(server, [opro.added(q.text, instruction) for q in asked])
        return opro.Scored(mean(value or 0.0 for value in scorer(asked, answers)), cost(answers))

    _say(
        f"OPRO: {plan.generations} generations of {opro.PROPOSALS} instructions, each scored on {len(half)} questions: "
        f"at most {plan.generations * opro.PROPOSALS * (len(half) + 1) + len(opro.FIRST) * len(half)} calls, and {len(other)} a generation to test"
    )
    curve: list[dict[str, Any]] = []
    result["opro"] = {
        "optimizer": (plan.optimizer or plan.answerer).model,
        "measure": MEASURE[questions[rows[0]].kind],
        "questions": {"searched": len(half), "tested": len(other)},
        "curve": curve,
        "systems": {
            name: {
                "test": round(mean(system.scores[row] or 0.0 for row in other), 4),
                "cost": _part(system.cost, len(other), len(questions)).table(),
            }
            for name, system in systems.items()
            if system.scores
        },
    }
    steps = opro.search([questions[row].text for row in half], lambda text: score(text, half), optimizer, plan.generations)
    for step in tqdm(steps, total=plan.generations + 1, desc="searching", unit="generation", file=sys.stderr):
        tested = score(step.instruction, other)
        curve.append(
            {
                "generation": step.generation,
                "instruction": step.instruction,
                "proposed": step.proposed,
                "score": round(step.score, 4),
                "test": round(tested.score, 4),
                "cost": step.cost.table(),
            }
        )
        _save(place / "evaluation.json", result)


def _part(whole: Cost, count: int, of: int) -> Cost:
    """The share of a cost that `count` of its prompts have in it."""
    return Cost(round(whole.calls * count / of), round(whole.tokens * count / of), whole.seconds * count / of)


def _judged(systems: dict[str, System], plan: Plan, place: Path, result: dict[str, Any]) -> None:
    """Sheets of each system against the prompts as typed, and the judge's verdicts on them; readers may write theirs instead."""
    for name in systems:
        if name == "prompt":
            continue
        rewrites = place / "evaluation" / f"{name}.jsonl"
        # Verdicts are of these very rewrites: others get a sheet of their own.
        sheet = place / "evaluation" / f"sheet-{name}-{pairs.sha256(rewrites)[:8]}"
        compare.make_sheet("prompt", str(rewrites), place / "evaluation" / "prompts.jsonl", sheet)
        if plan.judge:
            compare.ask_judge(sheet, plan.judge.url, plan.judge.model)
        if (sheet / "verdicts.jsonl").exists():
            row = compare.tally(sheet)[0][-1]
            told = {"tied": row.ties, "lost": row.losses, "judges": compare.judges(sheet)}
            result["systems"][name]["wins"] = {**share(row.wins, row.total), **told}
    if plan.judge is None:
        result["left_out"].append("blind win rate: no --judge (the sheets are there for readers)")


def read_card(run: Path) -> dict[str, Any]:
    """What a run's card.json tells, or of a GGUF its header; {} where nothing is told."""
    try:
        if run.is_file():
            from promptimal_convert.gguf_file import BadGGUF, read_header

            with contextlib.suppress(BadGGUF):
                told = read_header(run).values
                names = ("base", "base_sha256", "data_sha256")
                return {"recipe": json.loads(told["promptimal.recipe"]), **{name: told.get(f"promptimal.{name}") for name in names}}
        card = json.loads((run / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError):
        return {}
    return card if isinstance(card, dict) else {}


def _named(spec: str) -> str:
    """A source without its folder, which is nobody's business where a record is published."""
    name, colon, path = spec.partition(":")
    return f"{name}{colon}{Path(path).name}"


def _questions(plan: Plan) -> list["Question"]:
    from promptimal_trainer.sources import read

    questions: list[Question] = []
    for spec in plan.questions:
        found = list(read(spec))
        if plan.limit is not None and plan.limit < len(found):
            found = random.Random(0).sample(found, plan.limit)
        questions += found
    if not questions:
        raise BadRun("no questions to evaluate with")
    return questions


def _model(run: Path, place: Path) -> Path:
    """The GGUF to evaluate: the run itself, or what its adapter and base make together, converted once."""
    if run.is_file():
        return run
    weights = run / "adapter_model.safetensors"
    if not weights.is_file():
        raise BadRun(f"{run} is no run: neither a GGUF file nor a directory with adapter_model.safetensors")
    base = _base_name(run)
    if base is None:
        raise BadRun(f"{run / 'card.json'} does not say which base the adapter was trained on")
    return _converted(place / "evaluation" / f"model-{pairs.sha256(weights)[:12]}.gguf", base, str(run))


def _base(run: Path, place: Path) -> Path | None:
    """The untuned base as a GGUF, or None where the run does not tell which it is. Raises BadRun or base.BadBase where it cannot be had."""
    name = _base_name(run)
    if name is None or name.endswith(".gguf"):
        return Path(name) if name else None
    return _converted(place / "evaluation" / "base.gguf", name)


def _base_name(run: Path) -> str | None:
    """The base that a run's card names, as `promptimal-convert` takes it."""
    name = read_card(run).get("recipe", {}).get("base")
    if not isinstance(name, str):
        return None
    from promptimal_trainer.base import find_gguf  # brings torch

    return str(find_gguf(name) or name)


def _converted(out: Path, *parts: str) -> Path:
    """`out`, made by `promptimal-convert` from a base and perhaps an adapter, unless it is there."""
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([sys.executable, "-m", "promptimal_convert.command", *parts, "-o", str(out)], check=False)
        if done.returncode:
            raise BadRun(f"{parts[-1]} could not be converted to a model that runs")
    return out


def _save(path: Path, result: dict[str, Any]) -> None:
    with whole(path) as file:
        file.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
