"""A picture of the REPL as it is: a session on a real terminal, with the real model, drawn as SVG.

python bench/screenshot.py docs/repl.svg
"""

import sys
from html import escape
from itertools import groupby
from pathlib import Path

from repl import start
from terminal import Terminal

_COLUMNS, _LINES = 84, 22
_CELL, _ROW = 8.4, 19
_PALETTE = {"default": "#d4d4d4", "cyan": "#56b6c2", "green": "#98c379", "red": "#e06c75", "brown": "#e5c07b"}


def main(target: Path) -> None:
    """Run a session and draw its last screen."""
    terminal = start(columns=_COLUMNS, lines=_LINES)
    terminal.type("diffrence between weather and climate")
    terminal.until("1 of 3")
    terminal.press("enter", "enter")
    terminal.wait(lambda: "1 of 3" not in terminal.text, name="an empty line")
    terminal.type("/why\r")
    terminal.until("check")
    terminal.type("why do cats purr even when they are hurt")
    terminal.until("1 of 3")
    terminal.rest(0.3)
    target.parent.mkdir(exist_ok=True)
    target.write_text(_svg(terminal), encoding="utf-8")
    terminal.process.close(force=True)
    print(terminal.text)


def _svg(terminal: Terminal) -> str:
    width, height = _COLUMNS * _CELL + 24, _LINES * _ROW + 24
    rows = "\n".join(_row(terminal, number) for number in range(_LINES))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" font-family="monospace" font-size="14">\n'
        f'<rect width="100%" height="100%" rx="6" fill="#1e2127"/>\n{rows}\n</svg>\n'
    )


def _row(terminal: Terminal, number: int) -> str:
    """A line of the screen, a text element for each run of cells that look alike."""
    buffer, texts = terminal.screen.buffer[number], []
    for (colour, bold, underline), run in groupby(range(_COLUMNS), key=lambda x: (buffer[x].fg, buffer[x].bold, buffer[x].underscore)):
        columns = list(run)
        text = "".join(buffer[x].data for x in columns)
        if text.strip():
            look = (' font-weight="bold"' if bold else "") + (' text-decoration="underline"' if underline else "")
            x, y = 12 + columns[0] * _CELL, 12 + (number + 0.75) * _ROW
            texts.append(
                f'<text x="{x:.1f}" y="{y:.1f}" textLength="{len(text) * _CELL:.1f}" fill="{_PALETTE[colour]}"{look} xml:space="preserve">{escape(text)}</text>'
            )
    return "".join(texts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
