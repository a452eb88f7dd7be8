"""Ctrl-C and SIGTERM in a run: the update at hand is finished and saved first."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class Interruption:
    """Whether a stop was asked for; the second time it is KeyboardInterrupt at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = False
        self._say = say

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._say("\nsaving after this update; once more stops at once")


@contextlib.contextmanager
def watched(say: Callable[[str], None]) -> Iterator[Interruption]:
    """Listen to SIGINT and SIGTERM; afterwards they do again what they did before. Outside the main thread nothing is listened to."""
    interruption = Interruption(say)
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, interruption._take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
