"""How the data pipeline holds up: calls a second against a server that takes a second, and memory by the number of questions.

python bench/pipeline.py                  # throughput, memory with 1,000 and 10,000 questions, 200 kills
python bench/pipeline.py --questions 100000
"""

import argparse
import contextlib
import csv
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "trainer"))
from counting_server import running
from killing import kill_over_and_over, write_recipe
from machine import machine

AT_ONCE = 128
RECIPE = """
sources = ["mmlu:{file}"]
concurrency = {at_once}
[teacher]
model = "teacher"
base_url = "{base}"
[answerer]
model = "answerer"
base_url = "{base}"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, nargs="*", default=[1_000, 10_000], help="how many, for the memory")
    parser.add_argument("--seconds", type=int, default=40, help="how long the throughput is measured")
    parser.add_argument("--kills", type=int, default=200)
    arguments = parser.parse_args()
    print(f"{machine()}, load average {os.getloadavg()[0]:.1f}\n")
    print(
        "| server answers after | questions | calls at once | seconds | calls/s, start to end | from the 10th to the 90th percent of the answers | of the possible | processor time a call | peak memory | again, from the store |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    if arguments.seconds:
        _measure(arguments.seconds * AT_ONCE, 1.0)
    for count in arguments.questions:
        _measure(count, 0.0)
    if arguments.kills:
        with tempfile.TemporaryDirectory() as folder, running(delay=0.03) as server:
            began = time.time()
            account = kill_over_and_over(
                write_recipe(Path(folder), server.base, 120), Path(folder) / "out", server, arguments.kills, within=0.35
            )
        print(
            f"\n{account.kills} kills (SIGKILL, {account.while_working} of them before the run was done) in {time.time() - began:.0f} s: no stored answer"
            f" lost, none asked for again; {account.lost} of {account.calls} calls were under way when killed and made again"
        )


def _measure(count: int, delay: float) -> None:
    with tempfile.TemporaryDirectory() as name, _server(delay) as base:
        folder = Path(name)
        with (folder / "made_up_test.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [f"Which of these is the {n}th?", "Vega", "Rigel", "Sirius", "Deneb", "ABCD"[n % 4]] for n in range(count)
            )
        (folder / "recipe.toml").write_text(RECIPE.format(file=folder / "made_up_test.csv", base=base, at_once=AT_ONCE))
        _, memory, processor = _run(folder)
        seconds, _, _ = _run(folder)
        times = _times(folder / "out" / "store.sqlite")
        logged, _ = (json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines())
    rate = logged["calls"] / logged["seconds"]
    sustained = _sustained(times)
    share = f"{sustained / (AT_ONCE / delay):.1%}" if delay else ""
    print(
        f"| {delay:g} s | {count:,} | {AT_ONCE} | {logged['seconds']:.1f} | {rate:.1f} | {sustained:.1f} | {share} | {1000 * processor / count:.1f} ms | {memory / 1024:.0f} MB"
        f" | {seconds:.1f} s |",
        flush=True,
    )


def _run(folder: Path) -> tuple[float, int, float]:
    """Run the command; its seconds, peak memory in kB, and processor time in seconds."""
    command = [Path(sys.executable).parent / "promptimal-train", "mine", folder / "recipe.toml", "--out", folder / "out"]
    began = time.time()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, "the run failed"
    return time.time() - began, usage.ru_maxrss, usage.ru_utime + usage.ru_stime


def _times(store: Path) -> list[float]:
    """When each answer was stored, in seconds."""
    with contextlib.closing(sqlite3.connect(store)) as db:
        return [row[0] for row in db.execute("SELECT at FROM answers ORDER BY at")]


def _sustained(times: list[float]) -> float:
    """Answers a second, without the start and the end of the run."""
    tenth = len(times) // 10
    return (len(times) - 2 * tenth) / (times[-tenth - 1] - times[tenth])


@contextmanager
def _server(delay: float) -> Iterator[str]:
    """The counting server in a process of its own."""
    script = Path(__file__).parents[1] / "tests" / "trainer" / "counting_server.py"
    process = subprocess.Popen([sys.executable, script, "--delay", str(delay)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
