"""The REPL's speed on a real terminal: from key to echo, with and without suggestions under way, and from the last key to the suggestion.

python bench/repl.py [keys]
"""

import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from machine import machine
from terminal import Terminal

TEN_WORDS = (
    "why do cats purr even when they are not happy",
    "what should I pack for a winter week in Norway",
    "explain how a vaccine works to someone who never studied",
    "write a short story about a lighthouse keeper and whales",
    "compare electric cars and petrol cars for a small family",
)


def main(keys: int) -> None:
    """Print two tables."""
    print(f"{machine()} (the session leaves one free), load average {os.getloadavg()[0]:.1f}\n")
    print("| key to echo, ms | keys | 50% | 95% | 99% | slowest |\n| --- | --- | --- | --- | --- | --- |")
    for name, settings in (("no suggestions", "automatic = false"), ("a suggestion under way at every key", "pause = 0")):
        times = sorted(1000 * t for t in _echoes(keys, settings))
        cuts = [times[int(len(times) * share)] for share in (0.5, 0.95, 0.99)]
        print(f"| {name} | {keys} | {' | '.join(f'{t:.1f}' for t in (*cuts, times[-1]))} |")
    waits = _waits(4)
    print(f"\nTen words, from the last key to the suggestion on the screen (0.3 s of it the pause), {len(waits)} times:")
    print(f"median {statistics.median(waits):.2f} s, slowest {max(waits):.2f} s")


def start(settings: str = "", **size: int) -> Terminal:
    """A REPL with these settings and no history, its model loaded."""
    home = tempfile.mkdtemp()
    (Path(home) / "promptimal").mkdir()
    (Path(home) / "promptimal/config.toml").write_text(settings)
    terminal = Terminal("--private", XDG_CONFIG_HOME=home, **size)
    terminal.until("default model", seconds=60)
    return terminal


def _echoes(keys: int, settings: str) -> list[float]:
    """Seconds from key to echo. Twelve words a line, typed at a person's pace; each line is cleared with Ctrl-C."""
    terminal, draw, times = start(settings), random.Random(1), []
    line = ""
    while len(times) < keys:
        if len(line) >= 60:
            terminal.rest(0.1)
            terminal.press("ctrl-u")
            terminal.wait(lambda: terminal.lines[0] == ">", name="an empty line")
            line = ""
        character = draw.choice("etaoinshrdlu" if len(line) % 6 else "      ") if line else "w"
        terminal.rest(draw.uniform(0.06, 0.2))
        line += character if character != " " or line[-1] != " " else "a"
        started = time.perf_counter()
        terminal.type(line[-1])
        terminal.cursor_at(2 + len(line), 0)
        times.append(time.perf_counter() - started)
    terminal.process.close(force=True)
    return times


def _waits(rounds: int) -> list[float]:
    """Seconds from the last key to the suggestion."""
    terminal, waits = start(), []
    for prompt in TEN_WORDS * rounds:
        assert len(prompt.split()) == 10
        for character in prompt:
            terminal.type(character)
            terminal.rest(0.01)
        started = time.perf_counter()
        terminal.wait(lambda: "1 of 3" in terminal.text, name="a suggestion")
        waits.append(time.perf_counter() - started)
        terminal.press("ctrl-u")
        terminal.wait(lambda: "1 of 3" not in terminal.text, name="an empty line")
    terminal.process.close(force=True)
    return waits


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
