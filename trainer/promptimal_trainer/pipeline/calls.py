"""Ask models behind OpenAI-compatible servers: many calls at once, tried again where that helps, within a budget, stopped cleanly where it does not.

A reply is an answer only if it is a chat completion, of the model asked for, with a text that can be read. Everything else is an error of that
call: tried again, and at last reported, never stored.
"""

import asyncio
import contextlib
import email.utils
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from promptimal_trainer.pipeline.recipe import Model

TRIES = 6
"""Times that a call is made before it counts as failed; a server's "429 wait" does not count."""
MOST_WAITS = 100
LONGEST_WAIT = 60.0
"""Seconds before another try, unless the server's Retry-After asks for more."""
RAMP = 1 / 128
"""Seconds from one of a server's first calls to the next. All at once, their replies would come all at once as well, and so for ever: while the
processor is busy with 128 replies, no call is under way."""
FAILURES_IN_A_ROW = 10
"""Calls failed for good with none answered in between, from which on a server counts as unusable and the run stops. A refusal of one request is no
such failure: of a run started again, only the refused ones may be left."""


class Stop(Exception):
    """The run is to end here; the message says why. Calls under way are waited for and stored."""


class Interrupted(Stop):
    """A person stopped the run."""


class Failed(Exception):
    """A call that failed for good; the message says how."""


class Garbage(Exception):
    """A reply that is no answer; the message says why. What it cost is counted all the same."""

    def __init__(self, why: str, tokens_in: int = 0, tokens_out: int = 0) -> None:
        super().__init__(why)
        self.tokens = tokens_in, tokens_out


class Reply(NamedTuple):
    """An answer, why it ended ("stop", "length", …), and what it took."""

    text: str
    finish: str
    tokens_in: int
    tokens_out: int


Reader = Callable[[str], Any]


class Brake:
    """Tells everything that is under way that no new call may be made."""

    def __init__(self) -> None:
        self.reason: Stop | None = None

    def pull(self, reason: Stop) -> None:
        self.reason = self.reason or reason

    def check(self) -> None:
        """Raises the reason to stop, if there is one."""
        if self.reason:
            raise self.reason


class Server:
    """One server: its client, and how many calls it may get at once."""

    def __init__(self, model: Model, concurrency: int, brake: Brake) -> None:
        from openai import AsyncOpenAI, DefaultAioHttpClient  # half a second; a run whose answers are all stored does without

        # Its default client looks at every idle connection for every call: with 128, half of the processor time.
        self._client = AsyncOpenAI(base_url=model.base_url, api_key=model.key, max_retries=0, http_client=DefaultAioHttpClient())
        self._slots = asyncio.Semaphore(concurrency)
        self._brake = brake
        self._ramp, self._begun = concurrency, 0
        self._not_before = 0.0
        self._failures = 0
        self._where = model.base_url

    async def ask(self, once: Callable[[], Awaitable[Reply]]) -> Reply:
        """The reply of a call, of which `once` makes a single try.

        Raises Failed where this call cannot be had, Stop where no call can.
        """
        tries = waits = 0
        while True:
            try:
                async with self._slots:
                    await self._begin()
                    await self._pause()
                    self._brake.check()
                    reply = await once()
                self._failures = 0
                return reply
            except Garbage as error:
                why, wait, again = str(error), None, True
            except _Refused as error:
                why, wait, again = str(error), error.wait, error.again
                if error.busy and waits < MOST_WAITS:
                    waits += 1
                    self._not_before = max(self._not_before, time.monotonic() + (wait or _backoff(waits)))
                    continue
            tries += 1
            if not again or tries >= TRIES:
                raise self._failed(f"{why}" + (f" ({tries} tries)" if tries > 1 else ""), refused=not again)
            await self._sleep(_backoff(tries) if wait is None else wait)

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self._client.close()

    async def send(self, model: Model, body: dict[str, Any]) -> Any:
        """The JSON that a request brings. For `ask`'s `once`: raises what `ask` tries again."""
        import openai

        rest = {name: value for name, value in body.items() if name not in ("model", "messages")}
        try:
            raw = await asyncio.wait_for(
                self._client.chat.completions.with_raw_response.create(
                    model=body["model"], messages=body["messages"], extra_body=rest, timeout=model.timeout
                ),
                model.timeout,  # the client's own is for each read: a server that dribbles would hold it for ever
            )
            return json.loads(raw.http_response.content)
        except openai.APIStatusError as error:
            raise self._status(error) from None
        except (asyncio.TimeoutError, openai.APITimeoutError):
            raise _Refused(f"no answer within {model.timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise _Refused(f"cannot reach {self._where}: {error.__cause__ or error}") from None
        except (openai.OpenAIError, ValueError) as error:
            raise Garbage(f"a reply that is no JSON: {str(error)[:100]}") from None

    def _status(self, error: Any) -> "_Refused":
        code, said = error.status_code, " ".join(str(error.message).split())[:200]
        if code in (401, 403, 404) or (code == 429 and error.code == "insufficient_quota"):
            self._brake.pull(Stop(f"{self._where} refuses: {said}; what was answered is stored, the same command goes on"))
        again = code in (408, 409, 425, 429) or code >= 500
        return _Refused(said, again=again, busy=code == 429, wait=seconds(error.response.headers.get("retry-after")))

    def _failed(self, why: str, *, refused: bool) -> Failed | Stop:
        self._failures += not refused
        if self._failures >= FAILURES_IN_A_ROW:
            self._brake.pull(Stop(f"{self._where}: the last {self._failures} calls failed: {why}; is the server running?"))
        return self._brake.reason or Failed(why)

    async def _begin(self) -> None:
        """Let the first calls go out one after another."""
        if self._begun < self._ramp:
            self._begun += 1
            await self._sleep((self._begun - 1) * RAMP)

    async def _pause(self) -> None:
        """Wait as long as the server asked, all calls together."""
        while (left := self._not_before - time.monotonic()) > 0:
            await self._sleep(left)

    async def _sleep(self, wait: float) -> None:
        """Sleep, unless the run is stopped meanwhile."""
        end = time.monotonic() + wait
        self._brake.check()
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.5))
            self._brake.check()


class _Refused(Exception):
    """A call without a reply: whether another try may help, whether the server is only busy, and how long it asks to wait."""

    def __init__(self, why: str, *, again: bool = True, busy: bool = False, wait: float | None = None) -> None:
        super().__init__(why)
        self.again, self.busy, self.wait = again, busy, wait


class Budget:
    """Tokens and money that may be spent; a limit of 0 is none. Counts what calls under way may take at most, so that it is kept."""

    def __init__(self, limits: tuple[float, float], spent: tuple[float, float], brake: Brake) -> None:
        self._limits, self.spent, self._held = limits, spent, (0.0, 0.0)
        self._brake = brake
        self._change = asyncio.Condition()

    async def take(self, most: tuple[float, float]) -> None:
        """Set aside (tokens, money) for a call, waiting for those under way where it might not fit. Raises Stop where it does not."""
        if any(self._limits):
            async with self._change:
                while self._over(_plus(self._plus_held(), most)):
                    if self._over(_plus(self.spent, most)):
                        self._brake.pull(Stop(self._used_up()))
                    self._brake.check()
                    await self._change.wait()
                self._held = _plus(self._held, most)

    async def settle(self, most: tuple[float, float], taken: tuple[float, float]) -> None:
        """Give back what was set aside, and count what was taken."""
        self.spent = _plus(self.spent, taken)
        if any(self._limits):
            async with self._change:
                self._held = self._held[0] - most[0], self._held[1] - most[1]
                self._change.notify_all()

    def _plus_held(self) -> tuple[float, float]:
        return _plus(self.spent, self._held)

    def _over(self, amounts: tuple[float, float]) -> bool:
        return any(limit and amount > limit * (1 + 1e-9) for limit, amount in zip(self._limits, amounts, strict=True))

    def _used_up(self) -> str:
        tokens, cost = self.spent
        return (
            f"the budget does not allow another call ({tokens:,.0f} tokens and {cost:.4f} spent of"
            f" {f'{self._limits[0]:,.0f} tokens' if self._limits[0] else f'{self._limits[1]:g}'}); all answers are stored:"
            " raise budget_tokens or budget_cost in the recipe and the same command goes on"
        )


def parse(body: Any, model: Model, read: Reader) -> Reply:
    """The reply in the JSON of a chat completion (https://platform.openai.com/docs/api-reference/chat/object). Raises Garbage."""
    usage = body.get("usage") if isinstance(body, dict) else None
    tokens = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    tokens_in, tokens_out = (n if isinstance(n, int) and n >= 0 else 0 for n in tokens)
    try:
        choice = body["choices"][0]
        text, finish, name = choice["message"]["content"], choice.get("finish_reason"), body.get("model")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Garbage("a reply that is no chat completion", tokens_in, tokens_out) from None
    wanted = model.replies_as or model.model
    if isinstance(name, str) and name and not _last(name).startswith(_last(wanted)):
        why = f'a reply of the model {name}, asked was {wanted} (if that is the same, set replies_as = "{name}" in the recipe)'
        raise Garbage(why, tokens_in, tokens_out)
    if not isinstance(text, str):
        raise Garbage("no text in the reply", tokens_in, tokens_out)
    try:
        read(text)
    except ValueError as error:
        raise Garbage(str(error), tokens_in, tokens_out) from None
    return Reply(text, str(finish or "stop"), tokens_in, tokens_out or tokens_of(text))


def tokens_of(text: str) -> int:
    """About how many tokens a text has: one for four characters, as in English."""
    return len(text) // 4 + 1


def most_tokens_of(messages: list[dict[str, str]]) -> int:
    """A careful guess of how many tokens messages have: one for three characters, and ten around each message."""
    return sum(len(message["content"]) // 3 + 10 for message in messages)


def seconds(header: str | None) -> float | None:
    """The wait that a Retry-After header asks for (RFC 9110, 10.2.3): seconds, or a date. None where there is none."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        with contextlib.suppress(ValueError, TypeError):
            return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
        return None


def _backoff(tries: int) -> float:
    """Seconds before the next try: twice as long each time, spread so that not all come back at once."""
    return float(min(LONGEST_WAIT, 0.5 * 2 ** (tries - 1)) * random.uniform(0.75, 1.25))


def _last(name: str) -> str:
    """A model's name without its provider: "openai/gpt-4.1" is "gpt-4.1"."""
    return name.rstrip("/").rpartition("/")[2].lower()


def _plus(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return a[0] + b[0], a[1] + b[1]
