"""A real terminal for tests and benches: `promptimal` runs in it, keys go in, and what a person would see comes out."""

import base64
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pyte

COMMAND = str(Path(sys.executable).parent / "promptimal")

KEYS = {
    "enter": "\r", "tab": "\t", "alt-enter": "\x1b\r", "up": "\x1b[A", "down": "\x1b[B", "escape": "\x1b", "backspace": "\x7f",
    **{f"ctrl-{letter}": chr(ord(letter) - 96) for letter in "abcdefghijklmnopqrstuvwxyz"},
}  # fmt: skip


class _Screen(pyte.HistoryScreen):
    """A screen that answers the questions a terminal is asked."""

    def __init__(self, columns: int, lines: int, answer: Callable[[str], Any]) -> None:
        super().__init__(columns, lines, history=1000)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data)


class Terminal:
    """`promptimal` on a terminal of its own."""

    def __init__(self, *arguments: str, columns: int = 80, lines: int = 24, **environment: str) -> None:
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "PROMPTIMAL_HISTORY", "DISPLAY", "WAYLAND_DISPLAY", "TMUX")}
        variables = {**kept, "TERM": "xterm-256color", **environment}
        self.process = pexpect.spawn(COMMAND, list(arguments), env=variables, dimensions=(lines, columns), timeout=None)
        self.process.delaybeforesend = None
        self.screen = _Screen(columns, lines, self.process.send)
        self._stream = pyte.ByteStream(self.screen)
        self.received = b""

    def type(self, text: str) -> None:
        """Type a text as it is."""
        self.process.send(text)

    def press(self, *names: str) -> None:
        """Press keys by their names."""
        for name in names:
            self.process.send(KEYS[name])

    def paste(self, text: str) -> None:
        """Paste a text, as a terminal does."""
        self.process.send(f"\x1b[200~{text}\x1b[201~")

    def resize(self, columns: int, lines: int) -> None:
        """Another size of the window."""
        self.screen.resize(lines, columns)
        self.process.setwinsize(lines, columns)

    def read(self, timeout: float = 0.05) -> bool:
        """Let the screen show what has come; False at the end."""
        try:
            block = self.process.read_nonblocking(65536, timeout)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.received += block
        self._stream.feed(block)
        return True

    @property
    def lines(self) -> list[str]:
        """The screen's lines."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        """The screen's lines, joined."""
        return "\n".join(self.lines).rstrip()

    @property
    def prose(self) -> str:
        """The screen's words, wherever its lines broke."""
        return " ".join(self.text.split())

    @property
    def suggestion(self) -> str:
        """The suggestion below a line of one row; "" where there is none."""
        rows = [row.strip() for row in self.lines[1:]]
        end = next((i for i, row in enumerate(rows) if not row or re.match(r"\d of|nothing to add|stands as|Tab takes", row)), 0)
        return " ".join(rows[:end])

    @property
    def copied(self) -> str:
        """What the terminal was last told to put on the clipboard."""
        return base64.b64decode(re.findall(rb"\x1b\]52;c;([\w+/=]*)\x07", self.received)[-1]).decode()

    def until(self, *wanted: str, without: str = "", seconds: float = 30) -> None:
        """Wait until the screen shows all that is wanted, and not what must have gone, wherever a line broke, also within a word."""

        def shown(text: str) -> bool:
            return "".join(text.split()) in "".join(self.text.split())

        self.wait(
            lambda: all(map(shown, wanted)) and not (without and shown(without)),
            seconds,
            f"{wanted} without {without!r}",
        )

    def wait(self, met: Callable[[], bool], seconds: float = 20, name: str = "") -> None:
        """Wait until a condition is met; the screen is the message where it is not."""
        deadline = time.monotonic() + seconds
        while not met():
            if time.monotonic() > deadline or not self.read():
                assert met(), f"not met: {name}\n{self.text}"
                return

    def cursor_at(self, column: int, line: int) -> None:
        """Wait until the cursor is there."""
        self.wait(lambda: (self.screen.cursor.x, self.screen.cursor.y) == (column, line), name=f"the cursor at {column}, {line}")

    def rest(self, seconds: float) -> None:
        """Let time pass, to see that nothing happens."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.read():
            pass

    def style(self, text: str) -> tuple[Any, ...]:
        """Colour, bold, underline of the first cell of a text on the screen."""
        for number, line in enumerate(self.screen.display):
            if text in line:
                cell = self.screen.buffer[number][line.index(text)]
                return cell.fg, cell.bold, cell.underscore
        raise AssertionError(f"{text!r} is not on the screen\n{self.text}")

    def ended(self, seconds: float = 10) -> int | None:
        """Wait for the end, and give the exit code."""
        self.wait(lambda: not self.read(), seconds, "the end")
        self.process.close()
        return self.process.exitstatus
