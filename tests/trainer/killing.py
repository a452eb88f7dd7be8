"""Kill a pipeline's run at random moments, over and over, and go on: what tests/trainer/test_pipeline_killed.py and bench/pipeline.py share.

    python tests/trainer/killing.py RECIPE OUT      # for each line of stdin starts a run, prints its process id, then its exit status

The runs are forked from a process that has imported all beforehand, so that the moments fall into the work and not into the imports; each is a
process of its own, killed with SIGKILL.
"""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from counting_server import CountingServer

RECIPE = """
sources = ["own:{questions}"]
worst = 0.5
samples = 2
concurrency = {concurrency}
[teacher]
model = "teacher"
base_url = "{base}"
price_in = 1
price_out = 2
[answerer]
model = "answerer"
base_url = "{base}"
[judge]
model = "judge"
base_url = "{base}"
"""
FILES = ("answered", "hard", "proposals", "scored", "refined", "pairs")


class Account(NamedTuple):
    """What the kills did: how many there were, how many of them before the run was done, how many calls went out in vain, how many all in all."""

    kills: int
    while_working: int
    lost: int
    calls: int


def write_recipe(folder: Path, base: str, questions: int, concurrency: int = 4) -> Path:
    """A recipe for so many different open questions, with the counting server in all roles."""
    words = "river stone cloud garden engine market island winter letter mirror candle harbour".split()
    lines = [f"Explain {words[n % 12]} {words[n // 12 % 12]} by way of {n} {words[n // 144 % 12]}s" for n in range(questions)]
    (folder / "questions.txt").write_text("\n".join(lines) + "\n")
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(questions=folder / "questions.txt", base=base, concurrency=concurrency))
    return recipe


def kill_over_and_over(recipe: Path, out: Path, server: CountingServer, kills: int, seed: int = 0, within: float = 0.12) -> Account:
    """Start the run and kill it, `kills` times; then let it end.

    One kill in five comes at a random moment after the start, the others at a random moment of the first `within` seconds after its first call.

    Asserts after each kill that the store holds every answer it held before, and whatever was asked in later runs was not in it: no answer that
    was stored is asked for again, and at most as many calls are lost as were under way.
    """
    moments = random.Random(seed)
    stored: set[str] = set()
    working = lost = 0
    starter = subprocess.Popen(
        [sys.executable, __file__, str(recipe), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert starter.stdin and starter.stdout
    with starter:
        for number in range(kills + 1):
            server.process = number
            starter.stdin.write("go\n")
            starter.stdin.flush()
            process = int(starter.stdout.readline())
            if number < kills:
                _wait_for_a_call(server, number, seconds=0.0 if number % 5 == 0 else 5.0)
                time.sleep(moments.uniform(0.0, within))
                with contextlib.suppress(ProcessLookupError):  # it was through by then
                    os.kill(process, signal.SIGKILL)
            status = int(starter.stdout.readline())
            asked = server.by_process[number]
            assert not stored & set(asked), "an answer that was stored was paid for again"
            assert max(asked.values(), default=1) == 1, "a call was made twice in one run"
            now = keys(out)
            assert stored <= now, "a stored answer was lost"
            assert now - stored <= set(asked), "an answer in the store that nobody gave"
            lost += len(set(asked) - now)
            assert len(set(asked) - now) <= server.most_at_once, "more calls were lost than were under way"
            working += status == -signal.SIGKILL
            stored = now
        assert status == 0, "the last run did not end well"
        starter.stdin.close()
    return Account(kills, working, lost, sum(server.asked.values()))


def _wait_for_a_call(server: CountingServer, process: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not server.by_process[process] and time.monotonic() < end:
        time.sleep(0.002)


def keys(out: Path) -> set[str]:
    """The keys of the answers in a run's store."""
    path = out / "store.sqlite"
    if not path.exists():
        return set()
    db = sqlite3.connect(path)
    try:
        found = db.execute("SELECT name FROM sqlite_master WHERE name = 'answers'").fetchone()
        return {row[0] for row in db.execute("SELECT key FROM answers")} if found else set()
    finally:
        db.close()


def outputs(out: Path) -> dict[str, bytes]:
    """The bytes of every file that a run wrote."""
    return {name: (out / f"{name}.jsonl").read_bytes() for name in FILES}


def _start_runs(recipe: str, out: str) -> None:
    import aiohttp  # noqa: F401
    import openai

    from promptimal_trainer.command import main
    from promptimal_trainer.pipeline import batch, estimate, run  # noqa: F401

    openai.DefaultAioHttpClient  # noqa: B018  # its modules, too
    for _ in sys.stdin:
        process = os.fork()
        if process == 0:
            os.setsid()
            sys.argv = ["promptimal-train", "run", recipe, "--out", out]
            os._exit(main())
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _start_runs(*sys.argv[1:])
