"""Many items from an input that may make one wait: several workers with results in order, and reading ahead."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 4
"""Items a worker that may be read before the result that is waited for is there: memory does not grow with the input."""

_END_SECONDS = 1.0


def in_order(items: Iterable[T], workers: Sequence[Callable[[T], R]]) -> Iterator[R]:
    """The result of each item, in the items' order, each made by one of the workers, in a thread of that worker's.

    A worker reads its next item when it is free, and a result comes out as soon as it and all before it are there, also while the input (a
    pipe that somebody writes to) still waits. What a worker or the input raises is raised here, in its place.
    """
    source, reading = iter(items), threading.Lock()
    room = threading.Semaphore(AHEAD * len(workers))
    results: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()  # a number below 0: a worker has ended
    stopped = threading.Event()
    count = 0

    def work(worker: Callable[[T], R]) -> None:
        nonlocal count
        number = -1
        try:
            while room.acquire():
                with reading:
                    if stopped.is_set():
                        break
                    number = count
                    item = next(source)
                    count += 1
                results.put((number, worker(item), None))
        except StopIteration:
            pass
        except BaseException as error:
            results.put((number, None, error))
        results.put((-1, None, None))

    threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    waiting: dict[int, tuple[Any, BaseException | None]] = {}
    following = ended = 0
    try:
        while ended < len(threads) or following in waiting:
            if following in waiting:
                value, error = waiting.pop(following)
                if error:
                    raise error
                following += 1
                room.release()
                yield value
                continue
            number, value, error = results.get()
            if number >= 0:
                waiting[number] = value, error
            else:
                ended += 1
    finally:
        stopped.set()
        room.release(len(threads))
        end = time.monotonic() + _END_SECONDS  # what is under way must end before its model goes; who waits for input may wait for ever
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))


class ReadAhead(Generic[T]):
    """An iterator over items that a thread of its own reads, up to `most` ahead. What the input raises is raised in its place."""

    def __init__(self, items: Iterable[T], most: int) -> None:
        self._room = threading.Semaphore(most)
        self._read: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        threading.Thread(target=self._fill, args=(iter(items),), daemon=True).start()

    def is_ready(self) -> bool:
        """Whether the next item, or the end, is there already."""
        return not self._read.empty()

    def __iter__(self) -> Iterator[T]:
        while True:
            item, error = self._read.get()
            self._room.release()
            if isinstance(error, StopIteration):
                return
            if error:
                raise error
            yield item

    def _fill(self, items: Iterator[T]) -> None:
        try:
            while self._room.acquire():
                self._read.put((next(items), None))
        except BaseException as error:
            self._read.put((None, error))
