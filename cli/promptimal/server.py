"""Rewrite with a model behind an OpenAI-compatible server (llama-server, Ollama, vLLM, a provider): the only part that uses the network, and only when told to.

Many prompts go out at once; a server that is busy or hiccups is asked again. The key is read from the environment and never printed.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
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


class BadPrompt(BadModel):
    """One prompt that the server refuses; another may do."""


class ServerRewriter:
    """The same work as `rewrite.Rewriter`, by a server. Raises BadModel where it cannot be reached or refuses."""

    def __init__(self, base: str, model: str | None = None, key: str | None = None, seed: int | None = None) -> None:
        if not base.startswith(("http://", "https://")):
            raise BadModel(f"{base} is no address of a server: it begins with http:// or https://, as in http://localhost:8080/v1")
        self.base, self.key, self.seed = base.rstrip("/"), (key or "").strip(), seed
        if not (self.key.isascii() and (self.key.isprintable())):
            raise BadModel("the server's key (PROMPTIMAL_API_KEY or OPENAI_API_KEY) has characters in it that no key has: set it again")
        self.name = model or self._only_model()

    def rewrite(self, prompt: str, n: int = 1, show: Callable[[str], None] | None = None) -> list[Rewrite]:
        """Up to `n` different rewrites of a prompt; the greedy one first, a faithful one before one with faults."""
        reading = read(prompt)
        if isinstance(reading, Rewrite):
            return [reading]
        found: dict[str, Rewrite] = {}
        for number in range(n):
            if show:
                show("")  # nothing to see yet; who waits no longer ends it here
            rewrite = writing.read(reading, self._answer(reading, number))
            found.setdefault(rewrite.text, rewrite)
        return sorted(found.values(), key=lambda r: (bool(r.faults), not r.asks))

    def rewrite_all(self, prompts: Iterable[str], n: int = 1) -> Iterator[list[Rewrite]]:
        """Rewrites of many prompts, in their order, as they are ready. A prompt that the server refuses stands as typed, with its `error`."""

        def rewritten(prompt: str) -> list[Rewrite]:
            try:
                return self.rewrite(prompt, n)
            except BadPrompt as error:
                return [Rewrite(prompt, prompt, prompt, error=str(error))]

        return in_order(prompts, [rewritten] * AT_ONCE)

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
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"})
        if self.key:
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")  # for this server alone
        for attempt in range(1, TRIES + 1):
            wait = 0.5 * 2**attempt
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                problem, remedy = f"{self.base} answered {error.code} {error.reason}{_said(error)}", "try again later"
                if error.code not in (408, 409, 429) and error.code < 500:
                    raise (BadPrompt if error.code in (400, 413, 422) else BadModel)(problem) from None
                wait = _seconds(error.headers.get("Retry-After")) or wait
            except ValueError:
                problem, remedy = f"{self.base} answered with no JSON", "does its address end in /v1?"
            except (OSError, http.client.HTTPException) as error:
                problem, remedy = f"cannot reach {self.base}: {getattr(error, 'reason', None) or error}", "is the server running?"
            if attempt < TRIES:
                time.sleep(min(wait, LONGEST_WAIT))
        raise BadModel(f"{problem} ({TRIES} tries): {remedy}")


def _said(error: urllib.error.HTTPError) -> str:
    """The beginning of what a server says of its refusal."""
    try:
        said = error.read(300).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        said = ""
    return f": {said}" if said else ""


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        return None  # a date: our own wait will do
