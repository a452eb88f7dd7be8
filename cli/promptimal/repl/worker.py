"""The one thread that loads the model and rewrites with it, so that no key stroke ever waits for either.

Jobs are done one after another; a job that is cancelled before its turn never starts, and one under way stops where the rewriter shows its
first result, or its result is dropped.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from promptimal.models import Choice
    from promptimal.repl.changes import Part
    from promptimal.rewrite import Rewrite, Rewriter
    from promptimal.server import ServerRewriter


class NotReady(Exception):
    """There is no model to rewrite with; the message says why."""


class Suggestion(NamedTuple):
    """A rewrite, and what it changed."""

    rewrite: "Rewrite"
    parts: "tuple[Part, ...]"


class Made(NamedTuple):
    """The suggestions for a prompt, best first, how long they took, and the tokens of the words and sentences that the model put in."""

    prompt: str
    suggestions: tuple[Suggestion, ...]
    seconds: float
    tokens: int


class _Dropped(Exception):
    """Nobody waits for this job any more."""


class Worker:
    """A model and its thread."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._thread = ThreadPoolExecutor(1, "model")
        self._rewriter: Rewriter | ServerRewriter | None = None
        self._fault = "no model is loaded"
        self.name = ""

    async def load(self, choice: "Choice", say: Callable[[str], None]) -> None:
        """Load the model that was chosen; where that fails, one loaded before stays. Raises NotReady."""
        loop = asyncio.get_running_loop()

        def tell(text: str) -> None:
            loop.call_soon_threadsafe(say, text)

        await loop.run_in_executor(self._thread, self._load, choice, tell)

    async def suggest(self, prompt: str, n: int, seen: frozenset[str], show: Callable[[str], None]) -> Made:
        """Up to `n` suggestions that were not `seen`. `show` gets the request as soon as it stands. Raises NotReady."""
        loop = asyncio.get_running_loop()
        dropped = threading.Event()

        def step(request: str) -> None:
            if dropped.is_set():
                raise _Dropped
            loop.call_soon_threadsafe(show, request)

        try:
            return await loop.run_in_executor(self._thread, self._suggest, prompt, n, seen, step, dropped)
        except asyncio.CancelledError:
            dropped.set()
            raise

    def _load(self, choice: "Choice", say: Callable[[str], None]) -> None:
        from promptimal import models
        from promptimal.engine import BadModel, threads

        # One processor stays free for the keys and for what else runs: llama.cpp's threads wait for each other, and where one of them
        # has to share its processor a suggestion takes several times as long.
        os.environ.setdefault("PROMPTIMAL_THREADS", str(max(1, threads() - 1)))
        try:
            rewriter = models.load(choice, say, seed=self._seed)
        except (BadModel, OSError, MemoryError) as error:
            self._fault = str(error)
            raise NotReady(self._fault) from None
        if self._rewriter:
            self._rewriter.close()
        self._rewriter = rewriter
        self.name = rewriter.name.removesuffix(".gguf") if any(choice) else "default model"

    def _suggest(self, prompt: str, n: int, seen: frozenset[str], step: Callable[[str], None], dropped: threading.Event) -> Made:
        from promptimal.engine import BadModel
        from promptimal.repl.changes import changes

        if dropped.is_set():
            raise _Dropped
        if not self._rewriter:
            raise NotReady(self._fault)
        started = time.monotonic()
        try:
            found = self._rewriter.rewrite(prompt, n + len(seen), step)
        except (BadModel, _Dropped) as error:
            raise NotReady(str(error)) from None
        except Exception as error:  # a prompt that the rewriter stumbles over must not end a session that is open all day
            raise NotReady(f"the rewriter failed at this prompt ({type(error).__name__}: {error})") from error
        seconds = time.monotonic() - started
        rewrites = [rewrite for rewrite in found if rewrite.text not in seen][:n]
        put_in = [" ".join(r.asks) if r.kept else r.text for r in rewrites]
        tokens = sum(map(self._rewriter.count, put_in))
        return Made(prompt, tuple(Suggestion(r, tuple(changes(r))) for r in rewrites), seconds, tokens)
