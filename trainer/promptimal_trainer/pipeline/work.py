"""What a stage may ask for: chat answers, rewards, test runs; each from the store, or made once and stored.

Who makes a chat answer is the sender's business: `Live` calls the server; `batch.Collector` notes the request for a batch file.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, NamedTuple, Protocol, TypeVar

from promptimal_trainer.pipeline.calls import Brake, Budget, Failed, Garbage, Reply, Server, Stop, most_tokens_of, parse, tokens_of
from promptimal_trainer.pipeline.instructions import READERS, Messages
from promptimal_trainer.pipeline.recipe import Model, Recipe
from promptimal_trainer.pipeline.store import Spent, Store, key_of
from promptimal_trainer.sources import Question

T = TypeVar("T")


class Postponed(Exception):
    """An answer that is not in the store and is not to be made now."""


class Answer(NamedTuple):
    """A chat answer: its text, whether it was cut off at the token limit, and what its role's reader made of it."""

    text: str
    cut: bool
    value: Any


class Sender(Protocol):
    async def send(self, role: str, model: Model, key: str, body: dict[str, Any], stage: str) -> Reply:
        """A reply. Raises Failed, Stop or Postponed."""


class Live:
    """Sends requests to the models' servers, within the budget; counts what unusable replies took."""

    def __init__(self, recipe: Recipe, store: Store, brake: Brake) -> None:
        self._recipe, self._store, self._brake = recipe, store, brake
        spent = store.spent()
        total = sum(s.tokens_in + s.tokens_out for s in spent), sum(s.cost for s in spent)
        self._budget = Budget((recipe.budget_tokens, recipe.budget_cost), total, brake)
        self._servers: dict[tuple[str, str], Server] = {}

    async def send(self, role: str, model: Model, key: str, body: dict[str, Any], stage: str) -> Reply:
        self._brake.check()
        place = (model.base_url, model.key_env)
        server = self._servers.get(place)
        if server is None:
            server = self._servers[place] = Server(model, self._recipe.concurrency, self._brake)
        most = _most(model, body)

        async def once() -> Reply:
            """One try: the budget is asked before each, for an unreadable reply is paid as well."""
            taken = 0, 0
            await self._budget.take(most)
            try:
                self._brake.check()  # it may have waited for the budget
                reply = parse(await server.send(model, body), model, READERS[role])
                if not reply.tokens_in:  # a server that does not tell
                    reply = reply._replace(tokens_in=sum(tokens_of(message["content"]) for message in body["messages"]))
                taken = reply.tokens_in, reply.tokens_out
                return reply
            except Garbage as error:
                taken = error.tokens
                self._store.spend(Spent(stage, "chat", model.model, 1, *taken, model.cost(*taken)))
                raise
            finally:
                await self._budget.settle(most, (sum(taken), model.cost(*taken)))

        return await server.ask(once)

    async def close(self) -> None:
        for server in self._servers.values():
            await server.close()


class Work:
    """A stage's access to answers. With `made_here` False, nothing is computed here either: what is not stored is Postponed."""

    def __init__(self, stage: str, recipe: Recipe, store: Store, sender: Sender, *, made_here: bool = True) -> None:
        self.recipe = recipe
        self._stage, self._store, self._sender, self._made_here = stage, store, sender, made_here
        self._under_way: dict[str, asyncio.Future[Any]] = {}
        self._processors = asyncio.Semaphore(os.cpu_count() or 1)
        self._one_reward = asyncio.Lock()
        self._rewards: Any = None

    async def chat(self, role: str, messages: Messages, sample: int = 0) -> Answer:
        """The `sample`-th answer of a role's model. Raises Failed, Stop or Postponed."""
        model = self.recipe.model(role)
        body = model.body(messages, sample)
        key = key_of("chat", body)

        async def make() -> dict[str, str]:
            reply = await self._sender.send(role, model, key, body, self._stage)
            answer = {"text": reply.text, "finish": reply.finish}
            self._store.put(key, answer, spent_on(reply, model, self._stage))
            return answer

        answer = await self._once(key, make)
        try:
            return Answer(answer["text"], answer["finish"] == "length", READERS[role](answer["text"]))
        except ValueError as error:
            raise Failed(f"stored answer {key} cannot be read: {error}") from None

    async def reward(self, prompt: str, answer: str) -> float:
        """The reward of an answer. One at a time: in a batch, a reward would depend on its neighbours by rounding, and so on who came first."""
        async with self._one_reward:
            if self._rewards is None:
                self._rewards = await asyncio.to_thread(_reward_model, self.recipe.reward)
        model = self._rewards

        async def make() -> float:
            async with self._one_reward:
                (value,) = await asyncio.to_thread(model.score, [(prompt, answer)])
            return float(value)

        return float(
            await self._local("reward", {"model": model.fingerprint, "prompt": prompt, "answer": answer}, self.recipe.reward, make)
        )

    async def passes(self, code: str, question: Question) -> bool:
        """Whether a program passes the question's tests, in a sandbox. Raises Stop where the sandbox does not work on this machine."""
        from promptimal_trainer.sandbox import run_tests

        async def make() -> list[Any]:
            async with self._processors:
                _try_sandbox()
                return list(await asyncio.to_thread(run_tests, code, question.tests, question.entry_point))

        request = {"code": code, "tests": question.tests, "entry_point": question.entry_point}
        return bool((await self._local("tests", request, "sandbox", make))[0])

    async def _local(self, kind: str, request: dict[str, Any], name: str, make: Callable[[], Awaitable[Any]]) -> Any:
        key = key_of(kind, request)

        async def stored() -> Any:
            if not self._made_here:
                raise Postponed
            value = await make()
            self._store.put(key, value, Spent(self._stage, kind, name))
            return value

        return await self._once(key, stored)

    async def _once(self, key: str, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """The stored answer, or that of one making of it, however many ask meanwhile."""
        found = self._store.get(key)
        if found is not None:
            return found
        if key not in self._under_way:
            self._under_way[key] = asyncio.ensure_future(make())
            self._under_way[key].add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(self._under_way[key])


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of works done together; an error only after all have ended, so that none is left half done."""
    results = await asyncio.gather(*works, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise next((error for error in errors if isinstance(error, Stop)), errors[0])
    return [result for result in results if not isinstance(result, BaseException)]


def spent_on(reply: Reply, model: Model, stage: str) -> Spent:
    """What a reply took."""
    return Spent(stage, "chat", model.model, 1, reply.tokens_in, reply.tokens_out, model.cost(reply.tokens_in, reply.tokens_out))


def _try_sandbox() -> None:
    from promptimal_trainer.sandbox import NoSandbox, try_out

    try:
        try_out()
    except NoSandbox as error:
        raise Stop(f"{error}; leave out the sources with code") from error


def _most(model: Model, body: dict[str, Any]) -> tuple[float, float]:
    """Tokens and money that a request takes at most, by a careful guess of its own length."""
    tokens_in = most_tokens_of(body["messages"])
    return tokens_in + model.most_tokens, model.cost(tokens_in, model.most_tokens)


def _reward_model(name: str) -> Any:
    from promptimal_trainer.reward import BadReward, RewardModel

    try:
        return RewardModel(name)
    except BadReward as error:
        raise Stop(str(error)) from error
