"""A session on a terminal of its own, with a home of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from terminal import Terminal

Open = Callable[..., Terminal]


@pytest.fixture
def repl(default_model: Path, tmp_path: Path) -> Iterator[Open]:
    """Open a session: `repl("--private", config="pause = 1", columns=40)`. All sessions of a test share their files."""
    opened: list[Terminal] = []

    def open_session(*arguments: str, config: str = "", columns: int = 80, lines: int = 24, **environment: str) -> Terminal:
        file = tmp_path / "config/promptimal/config.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(config)
        homes = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state")}
        opened.append(Terminal(*arguments, columns=columns, lines=lines, **{**homes, **environment}))
        return opened[-1]

    yield open_session
    for terminal in opened:
        terminal.process.close(force=True)


@pytest.fixture
def history_file(tmp_path: Path) -> Path:
    return tmp_path / "state/promptimal/history.jsonl"
