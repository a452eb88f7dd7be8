"""A chat server on loopback that answers by a fixed function of the request, counts what it is asked, and fails on demand as real servers do.

    python tests/trainer/counting_server.py --delay 1      # prints its address; bench/pipeline.py measures against it

What it says of the roles is told by the model's name: "teacher" improves a prompt, "answerer" chooses a letter, "judge" gives a mark. A better prompt
gets better answers, now and then.
"""

import argparse
import asyncio
import hashlib
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from promptimal_trainer.pipeline.store import key_of

FAULTS = ("429", "429 date", "500", "hang", "cut", "cut early", "garbage", "html", "wrong model", "no text", "empty")


class CountingServer:
    """Counts requests by their key. `faults` are made for a share of the first tries of requests, by their hash."""

    def __init__(self, delay: float = 0.0, faults: tuple[str, ...] = (), refuse: str = "") -> None:
        self.delay, self.faults, self.refuse = delay, faults, refuse
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.faulted: Counter[str] = Counter()
        self.bodies: dict[str, dict[str, Any]] = {}
        self.headers: list[dict[str, str]] = []
        self.most_at_once = self._at_once = 0
        self.by_process: dict[int, Counter[str]] = defaultdict(Counter)
        self.process = 0
        self.base = ""

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = dict(line.split(": ", 1) for line in head.decode("latin-1").lower().split("\r\n")[1:] if ": " in line)
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                self.headers.append(headers)
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                try:
                    if not await self._reply(body, writer):
                        return
                finally:
                    self._at_once -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _reply(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection stays open."""
        key = key_of("chat", body)
        self.asked[key] += 1
        self.by_process[self.process][key] += 1
        self.bodies[key] = body
        await asyncio.sleep(self.delay)
        if self.refuse and self.refuse in json.dumps(body):
            return await self._send(writer, "400 Bad Request", json.dumps({"error": {"message": "refused for what it says"}}))
        fault = self._fault(key)
        self.faulted[fault] += bool(fault)
        answer = completion(body)
        if fault.startswith("429"):
            wait = "Wed, 21 Oct 2015 07:28:00 GMT" if "date" in fault else "0.05"
            return await self._send(writer, "429 Too Many Requests", '{"error": {"message": "slow down"}}', f"Retry-After: {wait}\r\n")
        if fault == "401":
            return await self._send(writer, "401 Unauthorized", '{"error": {"message": "wrong key"}}')
        if fault == "500":
            return await self._send(writer, "500 Internal Server Error", '{"error": {"message": "overloaded"}}')
        if fault == "hang":
            await asyncio.sleep(30)
            return False
        if fault == "cut early":
            return False
        if fault == "cut":
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n" + json.dumps(answer).encode()[:40]
            )
            await writer.drain()
            return False
        if fault == "wrong model":
            answer["model"] = "somebody-else"
        if fault == "no text":
            answer["choices"][0]["message"]["content"] = None
        if fault == "empty":
            answer["choices"] = []
        text = {"garbage": '{"choices": [', "html": "<html>busy</html>"}.get(fault) or json.dumps(answer)
        sent = await self._send(writer, "200 OK", text)
        self.answered[key] += not fault
        return sent

    def _fault(self, key: str) -> str:
        """The fault of this try: a third of the requests fail once, a ninth twice."""
        number = int(key[:8], 16)
        if not self.faults or number % 3 or self.asked[key] > (2 if number % 9 == 0 else 1):
            return ""
        return self.faults[(number // 9 + self.asked[key]) % len(self.faults)]

    async def _send(self, writer: asyncio.StreamWriter, status: str, text: str, headers: str = "") -> bool:
        data = text.encode()
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode() + data)
        await writer.drain()
        return True


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """The chat completion that a request gets, always the same."""
    text = says(body["model"], body["messages"][-1]["content"], body.get("seed", 0))
    return {
        "id": "chatcmpl-" + key_of("chat", body), "object": "chat.completion", "created": 1, "model": body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": len(str(body["messages"])) // 4, "completion_tokens": len(text) // 4 + 1},
    }  # fmt: skip


def says(model: str, prompt: str, seed: int) -> str:
    number = int(hashlib.sha256(f"{model}\n{prompt}\n{seed}".encode()).hexdigest()[:8], 16)
    if model.startswith("teacher"):
        asks = (
            "Explain each step.",
            "Consider every option in turn.",
            "Check the result before you answer.",
            "Say why.",
            "Give an example.",
        )
        return f"<add>{asks[number % 5]} {asks[number // 5 % 5]}</add>"
    if model.startswith("judge"):
        return str(1 + number % 10)
    if "def " in prompt:
        return f"```python\ndef double(x):\n    return x * {1 + number % 3}\n```"
    return f"The answer is {'ABCD'[number % 4]}."


@contextmanager
def running(**options: Any) -> Iterator[CountingServer]:
    """A server in a thread of its own."""
    server, loop, ready = CountingServer(**options), asyncio.new_event_loop(), threading.Event()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(server.start())
        ready.set()
        loop.run_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(_end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end() -> None:
    """Hang up on whoever still waits."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _forever(delay: float) -> None:
    server = CountingServer(delay)
    async with await server.start() as listening:
        print(server.base, flush=True)
        await listening.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0)
    asyncio.run(_forever(parser.parse_args().delay))
