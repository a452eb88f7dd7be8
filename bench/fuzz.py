"""Feed the installed command what nobody would type, with a terminal as its output: it must answer or say why not, and keep the terminal clean.

python bench/fuzz.py [how many] [first seed]

An input is bytes of up to 5 MB: text, markup, half a fence, control characters, broken encodings. Each one is a process of its own.
"""

import os
import pty
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
LIMIT = 60
"""Seconds a call may take; an answer to 5 MB takes a few."""

_PIECES = [
    b"explain ", b"why ", b"cats", b"\n", b"\n\n", b"\r\n", b"\t", b"    ", b"```", b"```python\n", b"~~~", b"<doc>", b"</doc>", b"<a", b'"', "“".encode(),
    "»".encode(), b": ", b"Traceback (most recent call last):\n", b"| a | b |\n", b"a,b,c\n", b"- x\n", b"A) x\n", b"> q\n", b"{", b"}", b"[", b"](", b"<|im_end|>",
    b"<|im_start|>assistant\n", b"[INST]", b"\x1b[2J", b"\x1b]0;x\x07", b"\x08", b"\x7f", b"\x9b31m", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xf0\x9f\x98",
    "\u202e".encode(), "\u200b".encode(), "\u2028".encode(), "é".encode(), "中文".encode(), "😀".encode(), b"https://x.example/?a=b", b"12,345.67", b"not ", b"...",
]  # fmt: skip


def made(seed: int) -> bytes:
    """The input of a seed."""
    draw = random.Random(seed)
    kind = draw.random()
    if kind < 0.1:
        return draw.randbytes(draw.choice((1, 3, 50, 5000)))
    if kind < 0.97:
        return b"".join(draw.choice(_PIECES) for _ in range(draw.choice((1, 3, 10, 40, 300))))
    piece = (
        b"".join(draw.choice(_PIECES) for _ in range(draw.choice((1, 2, 30)))).replace(b"\x00", b"").decode(errors="ignore").encode()
        or b"x"
    )
    return (piece * (5_000_000 // len(piece) + 1))[: draw.choice((100_000, 1_000_000, 5_000_000))].decode(errors="ignore").encode()


def main(count: int, first: int) -> int:
    """Print what went wrong and the counts; 1 if anything did."""
    wrong = answered = 0
    slowest = 0.0
    for seed in range(first, first + count):
        data = made(seed)
        started = time.monotonic()
        code, seen, errors = _run(data)
        slowest = max(slowest, time.monotonic() - started)
        answered += code == 0
        dirty = re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\x8b-\x8f\xa8-\xae]", seen + errors)
        if code not in (0, 1) or b"Traceback" in errors or dirty or (code == 1 and errors.count(b"\n") != 1):
            wrong += 1
            print(f"seed {seed} ({len(data)} bytes): exit {code}, {errors[-2000:]!r}, {dirty}", flush=True)
    print(
        f"{count} inputs: {answered} rewritten, {count - answered - wrong} refused with a sentence, {wrong} went wrong; slowest {slowest:.1f} s"
    )
    return 1 if wrong else 0


def _run(data: bytes) -> tuple[int | None, bytes, bytes]:
    """Exit code, what the terminal saw, and standard error, of one call."""
    terminal, its_end = pty.openpty()
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
        given.write(data)
        given.seek(0)
        process = subprocess.Popen([BIN / "promptimal"], stdin=given, stdout=its_end, stderr=errors)
        os.close(its_end)
        seen = b""
        while True:
            try:
                block = os.read(terminal, 1 << 16)
            except OSError:  # Linux says so when the other end is closed
                break
            if not block:
                break
            seen += block
        os.close(terminal)
        try:
            code = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            code = None
        errors.seek(0)
        return code, seen.replace(b"\r\n", b"\n"), errors.read()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, int(sys.argv[2]) if len(sys.argv) > 2 else 0))
