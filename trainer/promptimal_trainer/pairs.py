"""Read and write training pairs: JSON lines of {"category", "prompt", "improved", …}, one pair a line.

    {"category": "fact", "prompt": "who invented the telephone", "improved": "Who invented the telephone? Name …", "asks": ["Name …"], "misfits": ["Give …"]}

Without `asks`, the model learns to write `improved` itself. With them it learns to choose: `asks` are sentences, best first, each of which a reader
found to make the answer better when added to the request, none at all if the list is empty; `misfits` are such as would make it worse.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptimal import chat
from promptimal_trainer.errors import TrainError
from promptimal_trainer.whole_file import whole

DEFAULT = Path(__file__).parent / "data" / "pairs.jsonl"


class BadPairs(TrainError):
    """A pairs file that cannot be used; the message names the file and the line."""


@dataclass(frozen=True)
class Pair:
    category: str
    prompt: str
    improved: str
    asks: tuple[str, ...] | None = None
    misfits: tuple[str, ...] = ()
    score: float | None = None
    origin: str | None = None

    @property
    def target(self) -> str:
        """What the model should write, see `promptimal.chat`."""
        return chat.target(self.prompt, self.improved, write_asks=self.asks is None)


def read(path: Path) -> list[Pair]:
    """All pairs of a file.

    Raises BadPairs where a line is no JSON object with the three texts, or the file holds no pair.
    """
    pairs = [_pair(record, place) for place, record in read_lines(path)]
    if not pairs:
        raise BadPairs(f"{path}: no pairs in it")
    return pairs


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each JSON object of a file with its place, "file:line", one at a time."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadPairs(f"{place}: not JSON: {error.msg}") from error
        if not isinstance(record, dict):
            raise BadPairs(f"{place}: not a JSON object")
        yield place, record


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", newline="\n") as file:  # other line ends, as U+2028, may stand in a text
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise BadPairs(f"{path}: cannot be read: {error}") from error


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Records of a file whose "prompt" is a text. Raises BadPairs where one has none, or there is no record."""
    records = []
    for place, record in read_lines(path):
        if not isinstance(record.get("prompt"), str):
            raise BadPairs(f'{place}: no text "prompt" in it')
        records.append(record)
    if not records:
        raise BadPairs(f"{path}: no prompts in it")
    return records


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines to a temporary file beside `path`, then rename it."""
    with whole(path) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def is_held_out(prompt: str, share: float) -> bool:
    """Whether a prompt belongs to the held-out part: decided by its hash alone, so that adding pairs moves none."""
    digest = hashlib.sha256(" ".join(prompt.lower().split()).encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _pair(record: dict[str, Any], place: str) -> Pair:
    for name in ("category", "prompt", "improved"):
        if not isinstance(record.get(name), str) or not record[name].strip():
            raise BadPairs(f'{place}: "{name}" must be a text that is not empty')
    lists: dict[str, tuple[str, ...] | None] = {}
    for name in ("asks", "misfits"):
        value = record.get(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(text, str) and text for text in value)):
            raise BadPairs(f'{place}: "{name}" must be a list of texts')
        lists[name] = None if value is None else tuple(value)
    return Pair(
        record["category"],
        record["prompt"],
        record["improved"],
        lists["asks"],
        lists["misfits"] or (),
        record.get("score"),
        record.get("origin"),
    )
