"""The pipeline's part of `promptimal-train`: a command for each stage, `run` for all of them, `status` and `store`.

promptimal-train run recipe.toml --out runs/data --dry-run
promptimal-train run recipe.toml --out runs/data
promptimal-train status recipe.toml --out runs/data
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promptimal_trainer.pipeline.recipe import Recipe
    from promptimal_trainer.pipeline.store import Store

STAGES = {
    "mine": "ask the answerer every question, keep what it answers wrong or worst",
    "propose": "have the teacher improve each prompt",
    "score": "score the proposals by the answers they get",
    "refine": "send prompt, answer and score back to the teacher, some rounds",
    "select": "write the pairs: the best of each chain, if it beats the original and is faithful",
    "run": "all of it, from mine to select",
}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the pipeline's commands to the parser."""
    for name, does in STAGES.items():
        stage = _recipe(commands.add_parser(name, help=does))
        if name == "select":
            continue
        stage.add_argument("--concurrency", type=int, metavar="N", help="calls under way to each server (default: the recipe's)")
        if name in ("propose", "run"):
            stage.add_argument("--versions", type=int, metavar="N", help="improved versions of each (default: the recipe's)")
        if name in ("refine", "run"):
            stage.add_argument("--rounds", type=int, metavar="N", help="rounds of refining (default: the recipe's)")
        stage.add_argument("--dry-run", action="store_true", help="say what it would take at most, and do nothing")
        if name != "run":
            stage.add_argument(
                "--batch-out",
                type=Path,
                metavar="DIRECTORY",
                help="write the requests not yet answered as Batch API files; a budget does not hold for these",
            )
            stage.add_argument("--batch-in", type=Path, nargs="+", metavar="FILE", help="first read these results of the Batch API")
    _recipe(commands.add_parser("status", help="where a run stands: what is written, spent, and left"))
    store = commands.add_parser("store", help="inspect and prune the store of answers")
    store.add_argument("--out", type=Path, required=True, metavar="DIRECTORY", help="the run's directory")
    store.add_argument("--dump", action="store_true", help="print every answer as a JSON line")
    store.add_argument("--prune-days", type=float, metavar="N", help="delete answers older than N days")
    store.add_argument(
        "--prune-unused", type=Path, metavar="RECIPE", help="delete answers that this recipe and the stage files do not ask for"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run one of the commands; its exit code."""
    from promptimal_trainer.pipeline.calls import Interrupted, Stop

    commands: dict[str, Callable[[argparse.Namespace], int]] = {"status": _status, "store": _store}
    try:
        return commands.get(arguments.command, _stages)(arguments)
    except Stop as error:
        print(f"promptimal-train: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1


def _stages(arguments: argparse.Namespace) -> int:
    from promptimal_trainer.pipeline import recipe, run

    settings = recipe.read(arguments.recipe)
    given = {name: vars(arguments).get(name) for name in ("concurrency", "versions", "rounds")}
    settings = dataclasses.replace(settings, **{name: value for name, value in given.items() if value is not None})
    recipe.check_sense(settings, arguments.recipe)
    if vars(arguments).get("dry_run"):
        _estimate(settings, arguments.out, _look(arguments.out), "" if arguments.command == "run" else arguments.command)
        return 0
    if vars(arguments).get("batch_in") or vars(arguments).get("batch_out"):
        return _batch(arguments, settings)
    failed = run.run(run.NAMES if arguments.command == "run" else [arguments.command], settings, arguments.out)
    if failed:
        print(
            f"promptimal-train: failed: {failed}, named in {arguments.out}/*.failed.jsonl; all else is done and stored:"
            " the same command tries only these again",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _batch(arguments: argparse.Namespace, settings: "Recipe") -> int:
    """Read results, then write the requests that remain; where none do, the stage's file is written."""
    import asyncio

    from promptimal_trainer.pipeline import batch, run
    from promptimal_trainer.pipeline.calls import Brake

    store = run.open_store(arguments.out)
    try:
        faults = []
        for path in arguments.batch_in or ():
            taken = batch.take(path, settings, store)
            print(f"{path}: stored {taken.stored}, not waited for {taken.unknown}, faulty {len(taken.faults)}", file=sys.stderr)
            faults += taken.faults
        for fault in faults:
            print(f"promptimal-train: {fault}", file=sys.stderr)
        folder = arguments.batch_out or arguments.out / "batch"
        collector = batch.Collector(folder)
        stage = next(stage for stage in run.STAGES if stage.name == arguments.command)
        outcome = asyncio.run(run.run_stage(stage, settings, arguments.out, store, collector, Brake()))
        collector.finish(store)
    finally:
        store.close()
    if outcome.postponed:
        for path in collector.paths:
            print(path)
        print(f"{len(collector.requests)} requests to be answered; then run this again with --batch-in RESULTS", file=sys.stderr)
    return 1 if faults or outcome.failed else 0


def _status(arguments: argparse.Namespace) -> int:
    from promptimal_trainer.pipeline import recipe

    settings, out = recipe.read(arguments.recipe), arguments.out
    store = _look(out)
    for name in ("answered", "hard", "proposals", "scored", "refined", "pairs"):
        path = out / f"{name}.jsonl"
        print(f"{path}: {_count(path)} lines" if path.exists() else f"{path}: not written yet")
    for path in sorted(out.glob("*.failed.jsonl")):
        print(f"{path}: {_count(path)} failed")
    if store:
        spent = [entry for entry in store.spent() if entry.kind == "chat"]
        tokens, cost = sum(entry.tokens_in + entry.tokens_out for entry in spent), sum(entry.cost for entry in spent)
        limits = [f"{settings.budget_tokens:,} tokens"] * bool(settings.budget_tokens) + [f"{settings.budget_cost:g}"] * bool(
            settings.budget_cost
        )
        within = f" of {' and '.join(limits)}" if limits else ""
        print(f"spent: {sum(entry.calls for entry in spent):,} calls, {tokens:,} tokens, cost {cost:.4f}{within}")
        for stage, count in store.all_pending().items():
            print(f"{stage}: {count} requests handed out as batch files have no answer yet")
    _estimate(settings, out, store)
    return 0


def _estimate(settings: "Recipe", out: Path, store: "Store | None", alone: str = "") -> None:
    """Print what is left to do, of all stages or of one alone."""
    from promptimal_trainer.pipeline import estimate

    lines = estimate.estimate(settings, out, store, alone)
    print(estimate.table([line for line in lines if alone in ("", line.stage)]))
    for role in sorted({line.role for line in lines if not settings.model(line.role).most_tokens}):
        print(f"[{role}] sets no max_tokens: its answers are taken to have {estimate.ASSUMED:,} tokens", file=sys.stderr)


def _store(arguments: argparse.Namespace) -> int:
    import asyncio

    from promptimal_trainer.pipeline import recipe, run
    from promptimal_trainer.pipeline.store import BadStore

    pruning = arguments.prune_days is not None or arguments.prune_unused
    if not (arguments.out / "store.sqlite").exists():
        raise BadStore(f"{arguments.out / 'store.sqlite'}: no such store")
    store = run.open_store(arguments.out, write=bool(pruning))
    try:
        if arguments.dump:
            for answer in store.answers():
                print(json.dumps(answer, ensure_ascii=False))
            return 0
        if arguments.prune_days is not None:
            print(f"deleted {store.prune(before=time.time() - 86400 * arguments.prune_days)} answers", file=sys.stderr)
        if arguments.prune_unused:
            keep = asyncio.run(run.touched(recipe.read(arguments.prune_unused), arguments.out, store))
            print(f"deleted {store.prune(keep=keep)} answers", file=sys.stderr)
        counts = store.counts()
        print(
            "| stage | kind | model | answers | made | tokens in | tokens out | cost |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
        )
        for entry in store.spent():
            held = counts.get((entry.stage, entry.kind, entry.model), 0)
            print(
                f"| {entry.stage} | {entry.kind} | {entry.model} | {held:,} | {entry.calls:,} | {entry.tokens_in:,} | {entry.tokens_out:,}"
                f" | {entry.cost:.4f} |"
            )
    finally:
        store.close()
    return 0


def _look(out: Path) -> "Store | None":
    """The store to read only, while another run may be using it; None where there is none yet."""
    from promptimal_trainer.pipeline import run

    return run.open_store(out, write=False) if (out / "store.sqlite").exists() else None


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _recipe(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("recipe", type=Path, help="a .toml file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIRECTORY", help="where the store and the stages' files are")
    return parser
