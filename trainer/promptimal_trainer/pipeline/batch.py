"""Run a stage through OpenAI's Batch API, or anything that reads its files: requests out, results in, the stage from the store.

Format: https://platform.openai.com/docs/guides/batch. A request's custom_id is its key in the store. One file has one model's requests, as the
API wants it, at most 50,000 and 100 MB. A stage whose requests depend on answers (a judge's on the answer, refine's on the last round's) takes
a batch each time.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

from promptimal_trainer.pairs import read_lines
from promptimal_trainer.pipeline.calls import Garbage, parse
from promptimal_trainer.pipeline.instructions import READERS
from promptimal_trainer.pipeline.recipe import Model, Recipe
from promptimal_trainer.pipeline.store import Spent, Store
from promptimal_trainer.pipeline.work import Postponed, spent_on
from promptimal_trainer.whole_file import whole

_MOST_REQUESTS = 50_000
_MOST_BYTES = 100_000_000


class Collector:
    """Writes each request that is not in the store to a batch file, once, and postpones its answer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, tuple[IO[str], int, int]] = {}
        self._files = ExitStack()
        self.requests: dict[str, tuple[str, str]] = {}
        self.paths: list[Path] = []

    async def send(self, role: str, model: Model, key: str, body: dict[str, Any], stage: str) -> NoReturn:
        if key not in self.requests:
            request = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            self._write(f"{stage}-{role}", json.dumps(request, ensure_ascii=False) + "\n")
            self.requests[key] = stage, role
        raise Postponed

    def finish(self, store: Store) -> None:
        """Give the files their names, and note in the store what they wait for."""
        self._files.close()
        store.wait_for((key, stage, role) for key, (stage, role) in self.requests.items())

    def _write(self, name: str, line: str) -> None:
        file, count, size = self._open.get(name, (None, 0, 0))
        length = len(line.encode())
        if file is None or count == _MOST_REQUESTS or size + length > _MOST_BYTES:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{name}-{sum(p.name.startswith(name) for p in self.paths) + 1}.jsonl"
            self.paths.append(path)
            file, count, size = self._files.enter_context(whole(path)), 0, 0
        file.write(line)
        self._open[name] = file, count + 1, size + length


class Taken(NamedTuple):
    """Of a file of results: how many answers were stored, how many lines answer nothing that waits, and what was wrong with the rest."""

    stored: int
    unknown: int
    faults: list[str]


def take(path: Path, recipe: Recipe, store: Store) -> Taken:
    """Read a file of results into the store. Raises BadPairs where it is no file of JSON lines."""
    stored = unknown = 0
    faults = []
    for place, result in read_lines(path):
        key = str(result.get("custom_id"))
        waiting = store.pending(key)
        if waiting is None:
            unknown += 1
            continue
        stage, role = waiting
        model = recipe.model(role)
        response = result.get("response") or {}
        try:
            if result.get("error") or response.get("status_code", 200) != 200:
                raise Garbage(json.dumps(result.get("error") or response.get("body") or response)[:200])
            reply = parse(response.get("body"), model, READERS[role])
        except Garbage as error:
            faults.append(f"{place}: {error}")
            if any(error.tokens):
                store.spend(Spent(stage, "chat", model.model, 1, *error.tokens, model.cost(*error.tokens)))
            continue
        store.put(key, {"text": reply.text, "finish": reply.finish}, spent_on(reply, model, stage))
        stored += 1
    return Taken(stored, unknown, faults)
