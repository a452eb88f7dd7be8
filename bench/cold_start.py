"""Cold start: `echo … | promptimal` beside a plain llama-cpp-python script on the same model, and llama.cpp's own tool where it is installed.

python bench/cold_start.py [runs]

Wall time, time to the first byte on standard output, and peak memory; the systems take turns, so that the machine's moods hit all alike.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from kept_weights import PRELUDE
from machine import machine

from promptimal import models

PROMPT = "why do cats purr when they are not happy"

SCRIPT = f"""{PRELUDE}
import sys
from llama_cpp import Llama
llm = Llama(sys.argv[1], n_ctx=1024, verbose=False)
ban = {{llm.token_eos(): -100.0}}  # 45 tokens, wherever the model would end
for part in llm.create_chat_completion([{{"role": "user", "content": sys.stdin.read()}}], max_tokens=45, temperature=0, logit_bias=ban, stream=True):
    print(part["choices"][0]["delta"].get("content", ""), end="", flush=True)
"""


def main(runs: int) -> None:
    """Print a table, a line a system."""
    model = models.default(lambda text: print(text, file=sys.stderr)).path
    here = Path(sys.executable).parent
    systems = {
        "promptimal": [str(here / "promptimal")],
        "plain llama-cpp-python script, 45 tokens": [sys.executable, "-c", SCRIPT, str(model)],
    }
    if shutil.which("llama-completion"):
        systems["llama-completion, 45 tokens"] = ["llama-completion", "-m", str(model), "-no-cnv", "-n", "45", "--ignore-eos", "--no-repack", "--temp", "0", "-p", PROMPT]  # fmt: skip
    if (here / "llm").exists():
        systems["llm -m SmolLM2"] = [str(here / "llm"), "-m", "SmolLM2"]
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in systems}
    for run in range(runs + 1):
        for name, command in list(systems.items()):
            figures = _run(command)
            if figures is None:
                print(f"left out, for it failed: {name}", file=sys.stderr)
                del systems[name], results[name]
            elif run:  # the first round warms the page cache
                results[name].append(figures)
    print(f"{machine()}, {runs} runs in turn, medians\n\n| system | wall | first byte | peak memory |\n| --- | --- | --- | --- |")
    for name, rows in results.items():
        wall, first, memory = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {name} | {wall:.2f} s | {first:.2f} s | {memory / 1e6:.0f} MB |")


def _run(command: list[str]) -> tuple[float, float, float] | None:
    """Seconds to the end, seconds to the first byte, and peak bytes, of one run; None where it failed."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin and process.stdout
    process.stdin.write(PROMPT.encode())
    process.stdin.close()
    os.read(process.stdout.fileno(), 1)
    first = time.perf_counter() - started
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        return None
    return wall, first, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
