"""Rewrite with a model behind an OpenAI-compatible server (llama-server, Ollama, vLLM, a provider): the only part that uses the network, and only when told to.

Many prompts go out at once; a server that is busy or hiccups is asked again. The key is read from the environment and never printed.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from promptimal import writing
from promptimal.engine import BadModel
from promptimal.rewrite import Reading, Rewrite, read
from promptimal.workers import in_order

AT_ONCE = 16
"""Requests under way; a server that batches serves them together, another queues them."""

TRIES = 5
LONGEST_WAIT = 60.0
"""Seconds between two tries, whatever the server's Retry-After says."""

_TIMEOUT = 120.0
_MAX_TOKENS = 250


class ServerRewriter:
    """The same work as `rewrite.Rewriter`, by a server. Raises BadModel where it cannot be reached or refuses."""

    def __init__(self, base: str, model: str | None = None, key: str | None = None, seed: int | None = None) -> None:
        if not base.startswith(("http://", "https://")):
            raise BadModel(f"{base} is no address of a server: it begins with http:// or https://, as in http://localhost:8080/v1")
        self.base, self.key, self.seed = base.rstrip("/"), key, seed
        self.name = model or self._only_model()

    def rewrite(self, prompt: str, n: int = 1, show: Callable[[str], None] | None = None) -> list[Rewrite]:
        """Up to `n` different rewrites of a prompt; the greedy one first, a faithful one before one with faults."""
        reading = read(prompt)
        if isinstance(reading, Rewrite):
            return [reading]
        found: dict[str, Rewrite] = {}
        for number in range(n):
            rewrite = writing.read(reading, self._answer(reading, number))
            found.setdefault(rewrite.text, rewrite)
        return sorted(found.values(), key=lambda r: (bool(r.faults), not r.asks))

    def rewrite_all(self, prompts: Iterable[str], n: int = 1) -> Iterator[list[Rewrite]]:
        """Rewrites of many prompts, in their order, as they are ready."""
        return in_order(prompts, [partial(self.rewrite, n=n)] * AT_ONCE)

    def count(self, text: str) -> int:
        """Words of a text: how the server's model cuts it is not known here."""
        return len(text.split())

    def close(self) -> None:
        """Nothing is held open."""

    def _answer(self, reading: Reading, number: int) -> str:
        """What the model writes; the first answer greedily, further ones drawn."""
        drawn = number > 0 or self.seed is not None
        body = {
            "model": self.name,
            "messages": writing.messages(reading.view),
            "max_tokens": _MAX_TOKENS,
            "temperature": 0.8 if drawn else 0.0,
            **({"seed": (self.seed or 0) + number} if drawn else {}),
        }
        answer = self._request("/chat/completions", body)
        try:
            return str(answer["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError):
            raise BadModel(f"{self.base} answered with something else than a chat completion: is it an OpenAI-compatible server?") from None

    def _only_model(self) -> str:
        try:
            names = [str(entry["id"]) for entry in self._request("/models")["data"]]
        except (KeyError, TypeError):
            names = []
        if len(names) != 1:
            raise BadModel(f"say with --model which model of {self.base} to use" + (f": {', '.join(names[:20])}" if names else ""))
        return names[0]

    def _request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The server's JSON answer; tried again where it is overloaded or cannot be reached for a moment."""
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(1, TRIES + 1):
            wait = 0.5 * 2**attempt
            try:
                with urllib.request.urlopen(urllib.request.Request(self.base + path, data, headers), timeout=_TIMEOUT) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                said = error.read(300).decode(errors="replace").strip()
                problem = f"{self.base} answered {error.code} {error.reason}" + (f": {said}" if said else "")
                if error.code not in (408, 409, 429) and error.code < 500:
                    raise BadModel(problem) from None
                wait = _seconds(error.headers.get("Retry-After")) or wait
            except (OSError, ValueError, http.client.HTTPException) as error:  # unreachable, cut off, or no JSON
                problem = f"cannot reach {self.base}: {getattr(error, 'reason', None) or error}"
            if attempt < TRIES:
                time.sleep(min(wait, LONGEST_WAIT))
        raise BadModel(f"{problem} ({TRIES} tries): is the server running?")


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        return None  # a date: our own wait will do
