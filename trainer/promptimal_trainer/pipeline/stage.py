"""Drive a stage: one record after another through it, many at once, out in the order they came in; memory stays flat.

Answers arrive in any order, and records wait for their turn; at most `_AHEAD` that are done, and twice as many under way as calls are allowed.
"""

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from promptimal_trainer.pipeline import records
from promptimal_trainer.pipeline.calls import Brake, Failed, Stop
from promptimal_trainer.pipeline.records import Record
from promptimal_trainer.pipeline.store import Store
from promptimal_trainer.pipeline.work import Postponed, Work
from promptimal_trainer.whole_file import whole

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 5_000
_NAMED = 5
"""Failed records that are told on stderr; all stand in the stage's file of failures."""

One = Callable[[Record, Work], Awaitable[Record]]


class Outcome(NamedTuple):
    """How many records a stage wrote, how many failed, and how many wait for answers that are not to be made now."""

    written: int = 0
    failed: int = 0
    postponed: int = 0


async def drive(name: str, one: One, source: Iterable[Record], total: int, out: Path, work: Work, store: Store, brake: Brake) -> Outcome:
    """Write what `one` makes of each record to the file `out`, which appears when all is done; failures beside it.

    Raises Stop where the run was stopped, with nothing written; every answer that came is stored.
    """
    written = failed = postponed = 0
    failures = out.with_suffix(".failed.jsonl")
    bar = tqdm(total=total, desc=name, unit="rec", file=sys.stderr, mininterval=0.5)
    meter = Meter(name, store)

    async def stopping(record: Record) -> Record:
        try:
            return await one(record, work)
        except Stop as error:  # not all come by the brake: a full disk, a sandbox that does not work
            brake.pull(error)
            raise

    try:
        with whole(out) as file, whole(failures) as bad:
            going = takewhile(lambda _: brake.reason is None, source)
            async for record, result in in_order(going, stopping, 2 * work.recipe.concurrency):
                bar.update()
                if isinstance(result, Record):
                    file.write(records.line(result))
                    written += 1
                elif isinstance(result, Failed):
                    failed += 1
                    bad.write(json.dumps({"id": record.question.id, "why": str(result)}, ensure_ascii=False) + "\n")
                    if failed <= _NAMED:
                        bar.write(f"promptimal-train: {name}: {record.question.id} failed: {result}", file=sys.stderr)
                elif isinstance(result, Postponed):
                    postponed += 1
                if bar.n % 16 == 0:
                    bar.set_postfix_str(str(meter), refresh=False)
            brake.check()
            if postponed:
                raise Postponed
    except Postponed:
        return Outcome(0, failed, postponed)
    finally:
        bar.set_postfix_str(str(meter))
        bar.close()
        meter.log(out.parent / "log.jsonl", written, failed, stopped=str(brake.reason or ""))
    if not failed:
        failures.unlink(missing_ok=True)
    return Outcome(written, failed)


async def in_order(items: Iterable[T], one: Callable[[T], Awaitable[R]], at_once: int) -> AsyncIterator[tuple[T, R | Exception]]:
    """Each item with its result, or with the error that was raised for it alone, in the items' order; `at_once` are under way."""
    slots = asyncio.Semaphore(at_once)
    waiting: deque[tuple[T, asyncio.Task[R | Exception]]] = deque()

    async def run(item: T) -> R | Exception:
        try:
            return await one(item)
        except (Failed, Stop, Postponed) as error:
            return error
        finally:
            slots.release()

    for item in _until_error(items):
        if isinstance(item, _Error):
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)  # paid for: let them be stored
            raise item.error
        await slots.acquire()
        waiting.append((item, asyncio.create_task(run(item))))
        while waiting and (waiting[0][1].done() or len(waiting) >= _AHEAD):
            first, task = waiting.popleft()
            yield first, await task
    while waiting:
        first, task = waiting.popleft()
        yield first, await task


class Meter:
    """What a stage has taken since it began: calls, tokens, cost, seconds."""

    def __init__(self, name: str, store: Store) -> None:
        self._name, self._store = name, store
        self._began = time.time()
        self._before = self._sums()

    def __str__(self) -> str:
        calls, tokens_in, tokens_out, cost = self.taken()
        seconds = max(time.time() - self._began, 1e-3)
        return f"{calls} calls ({calls / seconds:.1f}/s), {tokens_in + tokens_out} tokens, cost {cost:.4f}"

    def taken(self) -> tuple[int, int, int, float]:
        """Chat calls, tokens in and out, cost."""
        calls, tokens_in, tokens_out, cost = (now - before for now, before in zip(self._sums(), self._before, strict=True))
        return int(calls), int(tokens_in), int(tokens_out), cost

    def log(self, path: Path, written: int, failed: int, stopped: str) -> None:
        """Add a line to the log."""
        calls, tokens_in, tokens_out, cost = self.taken()
        entry = {
            "stage": self._name, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._began)), "seconds": round(time.time() - self._began, 2),
            "written": written, "failed": failed, "calls": calls, "tokens_in": tokens_in, "tokens_out": tokens_out, "cost": round(cost, 6),
        }  # fmt: skip
        if stopped:
            entry["stopped"] = stopped
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def _sums(self) -> tuple[float, float, float, float]:
        mine = [s for s in self._store.spent() if s.stage == self._name and s.kind == "chat"]
        return sum(s.calls for s in mine), sum(s.tokens_in for s in mine), sum(s.tokens_out for s in mine), sum(s.cost for s in mine)


class _Error(NamedTuple):
    error: Exception


def _until_error(items: Iterable[T]) -> "Iterator[T | _Error]":
    """The items; if reading them fails, the error as the last one."""
    try:
        yield from items
    except Exception as error:
        yield _Error(error)
