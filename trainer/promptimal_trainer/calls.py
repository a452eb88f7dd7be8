"""Ask an OpenAI-compatible server, several questions at once, and keep each answer as it comes: what was paid for is not asked again.

The record is JSON lines of {"key", "model", "asked", "text", "tokens", "seconds"}. The key is the hash of the whole request; the server's own key is
read from OPENAI_API_KEY and never written.
"""

import contextlib
import hashlib
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from promptimal_trainer.errors import TrainError

AT_ONCE = 8
"""Requests under way; a server that batches serves them together, another queues them."""

TRIES = 5
TIMEOUT = 300.0
"""Seconds for one answer."""


class NoAnswer(TrainError):
    """A server that cannot be reached, refuses, or answers with something else; the message says which."""


class Address(NamedTuple):
    """Where a server is, as in http://localhost:8080/v1, and its model's name."""

    url: str
    model: str


@dataclass(frozen=True)
class Cost:
    """Calls made, tokens read and written, and seconds that a person waited for them."""

    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.calls + other.calls, self.tokens + other.tokens, self.seconds + other.seconds)

    def table(self) -> dict[str, Any]:
        """For a JSON record."""
        return {"calls": self.calls, "tokens": self.tokens, "seconds": round(self.seconds, 1)}


class Answer(NamedTuple):
    """What a server wrote, and what that cost. The seconds of calls that overlap are shared out, so that they add up to the time waited."""

    text: str
    tokens: int
    seconds: float


class Call(NamedTuple):
    """A chat of one message; `number` tells drawn answers to the same message apart."""

    message: str
    temperature: float = 0.0
    number: int = 0
    most: int = 1024
    """Tokens that the answer may have; an answer that is cut off before its end is scored as it stands."""


class Server:
    """A server, and the record of what it has answered. `spent` is the cost of all answers given out, whether asked now or before."""

    def __init__(self, address: Address, record: Path | None = None) -> None:
        from openai import OpenAI

        self.address, self.record = address, record
        self._secret = os.environ.get("OPENAI_API_KEY") or ""
        self._client = OpenAI(base_url=address.url, api_key=self._secret or "none", max_retries=TRIES, timeout=TIMEOUT)
        self._known = dict(_answers(record)) if record else {}
        if record:
            end_line(record)
        self._lock = threading.Lock()
        self._last = 0.0
        self._given: set[str] = set()
        self.spent = Cost()

    def ask(self, calls: Iterable[Call]) -> list[Answer]:
        """An answer to each call, in their order. Raises NoAnswer at the first that fails for good; those that came are in the record."""
        calls = list(calls)
        found = dict(self.each(calls))
        return [found[number] for number in range(len(calls))]

    def each(self, calls: Iterable[Call]) -> Iterator[tuple[int, Answer]]:
        """Number and answer of each call, as they come; calls that are the same are sent once. Raises NoAnswer."""
        numbers: dict[Call, list[int]] = defaultdict(list)
        for number, call in enumerate(calls):
            numbers[call].append(number)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            waiting = {pool.submit(self._one, call): call for call in numbers}
            try:
                for future in as_completed(waiting):
                    answer = future.result()
                    for number in numbers[waiting[future]]:
                        yield number, answer
            finally:
                pool.shutdown(cancel_futures=True)

    def _one(self, call: Call) -> Answer:
        key = self._key(call)
        answer = self._known.get(key) or self._sent(call, key)
        with self._lock:
            if key not in self._given:
                self._given.add(key)
                self.spent += cost([answer])
        return answer

    def _sent(self, call: Call, key: str) -> Answer:
        from openai import OpenAIError, omit

        started = time.monotonic()
        try:
            reply = self._client.chat.completions.create(
                model=self.address.model,
                messages=[{"role": "user", "content": call.message}],
                temperature=call.temperature,
                max_tokens=call.most,
                seed=call.number if call.temperature else omit,
            )
            text = reply.choices[0].message.content or ""
            tokens = reply.usage.total_tokens if reply.usage else 0
        except (OpenAIError, ValueError, LookupError, TypeError, AttributeError) as error:
            said = " ".join(str(error).split())[:300]
            raise NoAnswer(f"no answer from {self.address.url}: {said.replace(self._secret, '…') if self._secret else said}") from None
        with self._lock:
            now = time.monotonic()
            answer = Answer(text, tokens, now - max(started, self._last))
            self._last = now
            self._known[key] = answer
            if self.record:
                self._keep(key, call, answer)
        return answer

    def _keep(self, key: str, call: Call, answer: Answer) -> None:
        assert self.record
        # The seconds are not rounded: what is read back must add up to what was counted.
        line = {"key": key, "model": self.address.model, "asked": call.message, **answer._asdict()}
        self.record.parent.mkdir(parents=True, exist_ok=True)
        with self.record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _key(self, call: Call) -> str:
        return hashlib.sha256(json.dumps([*self.address, *call]).encode()).hexdigest()[:32]


def cost(answers: Iterable[Answer]) -> Cost:
    """What answers cost together."""
    total = Cost()
    for answer in answers:
        total += Cost(1, answer.tokens, answer.seconds)
    return total


def read_record(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file to which lines are added as they come; one that was cut off is passed over. Nothing where there is no file."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry


def end_line(path: Path) -> None:
    """End a last line that was cut off, so that the next one stands on its own."""
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            ended = file.read() == b"\n"
        if not ended:
            with path.open("ab") as file:
                file.write(b"\n")


def _answers(path: Path) -> Iterator[tuple[str, Answer]]:
    for entry in read_record(path):
        with contextlib.suppress(KeyError):
            yield entry["key"], Answer(entry["text"], entry["tokens"], entry["seconds"])
