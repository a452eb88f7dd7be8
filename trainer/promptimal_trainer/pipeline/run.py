"""Run stages by a recipe, one or all, in a directory that holds the store and a file for each stage."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, NoReturn

from promptimal_trainer.pipeline import mine, propose, records, refine, score, select
from promptimal_trainer.pipeline.calls import Brake, Interrupted
from promptimal_trainer.pipeline.recipe import Recipe
from promptimal_trainer.pipeline.records import Record
from promptimal_trainer.pipeline.stage import One, Outcome, drive
from promptimal_trainer.pipeline.store import Store
from promptimal_trainer.pipeline.work import Live, Postponed, Sender, Work


class Stage(NamedTuple):
    """A stage: what it does to a record, the file it reads (none: the sources), the file it writes record by record."""

    name: str
    one: One
    reads: str
    writes: str


STAGES = (
    Stage("mine", mine.one, "", "answered.jsonl"),
    Stage("propose", propose.one, "hard.jsonl", "proposals.jsonl"),
    Stage("score", score.one, "proposals.jsonl", "scored.jsonl"),
    Stage("refine", refine.one, "scored.jsonl", "refined.jsonl"),
)
NAMES = (*(stage.name for stage in STAGES), "select")


def open_store(out: Path, *, write: bool = True) -> Store:
    """The store of a run's directory, which is made if need be. Raises BadStore."""
    out.mkdir(parents=True, exist_ok=True)
    return Store(out / "store.sqlite", write=write)


def run(names: Iterable[str], recipe: Recipe, out: Path) -> int:
    """Run stages one after another; how many records failed in them. Raises Stop where it had to end early."""
    store = open_store(out)
    try:
        return asyncio.run(_run(names, recipe, out, store))
    finally:
        store.close()


async def _run(names: Iterable[str], recipe: Recipe, out: Path, store: Store) -> int:
    brake = Brake()
    _stop_on_signals(brake)
    sender = Live(recipe, store, brake)
    failed = 0
    try:
        for name in names:
            if name == "select":
                fates = select.select(out / "refined.jsonl", out / "pairs.jsonl", recipe)
                told = ", ".join(f"{fate}: {count}" for fate, count in fates.most_common())
                print(f"select: {fates['pair']} pairs in {out / 'pairs.jsonl'} (chains by fate: {told or 'none'})", file=sys.stderr)
            else:
                outcome = await run_stage(_stage(name), recipe, out, store, sender, brake)
                failed += outcome.failed
    finally:
        await sender.close()
    return failed


async def run_stage(
    stage: Stage, recipe: Recipe, out: Path, store: Store, sender: Sender, brake: Brake, *, made_here: bool = True
) -> Outcome:
    """Run one stage with the answers that `sender` gives. Nothing is written where some were Postponed."""
    read = source(stage, recipe, out)
    total = sum(1 for _ in read())  # also finds what cannot be read before anything is paid
    work = Work(stage.name, recipe, store, sender, made_here=made_here)
    try:
        outcome = await drive(stage.name, stage.one, read(), total, out / stage.writes, work, store, brake)
    except OSError:  # on a full disk the other files fail as well; what the store said of it tells more
        brake.check()
        raise
    if stage.name == "mine" and not outcome.postponed:
        kept = mine.keep_hard(out / stage.writes, out / "hard.jsonl", recipe)
        print(f"mine: {kept} of {outcome.written} questions kept in {out / 'hard.jsonl'}", file=sys.stderr)
    return outcome


def source(stage: Stage, recipe: Recipe, out: Path) -> Callable[[], Iterable[Record]]:
    """Where a stage's records come from, to be read as often as wanted."""
    return (lambda: records.read(out / stage.reads)) if stage.reads else (lambda: mine.questions(recipe))


async def touched(recipe: Recipe, out: Path, store: Store) -> set[bytes]:
    """The keys of all answers that the recipe, with the stage files as they are, asks for."""
    store.touched = set()
    for stage in STAGES:
        if not stage.reads or (out / stage.reads).exists():
            work = Work(stage.name, recipe, store, Nobody(), made_here=False)
            for record in source(stage, recipe, out)():
                with contextlib.suppress(Postponed):
                    await stage.one(record, work)
    return store.touched


class Nobody:
    """Sends nothing."""

    async def send(self, *_: object) -> NoReturn:
        raise Postponed


def _stage(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)


def _stop_on_signals(brake: Brake) -> None:
    """Let Ctrl-C and SIGTERM end the run when the calls under way are stored; a second one ends it at once."""
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        brake.pull(Interrupted("interrupted; all answers are stored, the same command goes on"))
        print("promptimal-train: waiting for the calls under way, to store their answers; again to leave at once", file=sys.stderr)

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows has none
            loop.add_signal_handler(number, stop, number)
