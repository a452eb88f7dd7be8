"""HumanEval: Python functions to complete, with tests (Chen et al. 2021, arXiv:2107.03374). Published as JSON lines, gzipped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from promptimal_trainer.sources import files
from promptimal_trainer.sources.question import Hub, Item, Question, missing

HUB = Hub("openai/openai_humaneval", None, "test", ("task_id", "prompt", "canonical_solution", "test", "entry_point"))


def from_file(path: Path) -> Iterator[Item]:
    """The problems of a .jsonl or .jsonl.gz file."""
    return files.json_lines(path, from_record)


def from_record(record: Any, number: int) -> Question | str:
    """The problem of a record; its name is its own, "HumanEval/3", so `number` is not used."""
    if wrong := missing(record, HUB.columns):
        return wrong
    name, start, entry_point = record["task_id"], record["prompt"], record["entry_point"]
    if not entry_point.isidentifier() or f"def {entry_point}(" not in start:
        return f"the prompt does not define the entry point {entry_point!r}"
    try:
        compile(start + record["canonical_solution"], "solution", "exec")
        compile(record["test"], "tests", "exec")
    except (SyntaxError, ValueError) as error:
        return f"its solution or its tests are no Python: {error}"
    return Question(
        f"humaneval/{name.replace('/', '-')}",
        "code",
        f"Complete this Python function:\n\n```python\n{start.strip()}\n```",
        answer=record["canonical_solution"],
        tests=f"{record['test']}\n\ncheck({entry_point})\n",
        entry_point=entry_point,
    )
