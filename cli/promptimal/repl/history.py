"""Prompts kept across sessions: one JSON string a line, in a file that only its owner can read.

A line is appended at once, in one write, so that a session that is killed loses nothing and two sessions do not disturb each other.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import History

_READ = 4_000_000
"""Bytes of the file's end that a session reads; older prompts stay in the file."""


def path() -> Path:
    """Where the file belongs: the system's place for state."""
    import platformdirs

    return Path(platformdirs.user_state_dir("promptimal", appauthor=False)) / "history.jsonl"


class PromptHistory(History):
    """The prompts of this session and, with a file, of those before. `fault` says why the file cannot be used, if it cannot."""

    def __init__(self, file: Path | None) -> None:
        super().__init__()
        self.file = file
        self.fault = ""

    def load_history_strings(self) -> Iterable[str]:
        """The prompts of the file, newest first."""
        if self.file is None:
            return []
        try:
            with self.file.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - _READ))
                lines = stream.read().splitlines()[1 if size > _READ else 0 :]
        except FileNotFoundError:
            return []
        except OSError as error:
            self.fault = f"cannot read {self.file}: {error.strerror}"
            return []
        return [prompt for line in reversed(lines) if (prompt := _prompt(line))]

    def store_string(self, string: str) -> None:
        """Append a prompt to the file."""
        if self.file is None:
            return
        line = json.dumps(string).encode() + b"\n"
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                if os.fstat(descriptor).st_mode & 0o077:
                    self.file.chmod(0o600)
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.fault = f"cannot write {self.file}: {error.strerror}"

    def keep(self, prompt: str) -> None:
        """Remember a prompt, unless it is blank or the last one again."""
        if prompt.strip() and prompt != next(iter(self.newest(1)), None):
            self.append_string(prompt)

    def newest(self, count: int, word: str = "") -> list[str]:
        """The last prompts that hold a word, oldest of them first."""
        if not self._loaded:
            self._loaded_strings, self._loaded = list(self.load_history_strings()), True
        found = [prompt for prompt in self._loaded_strings if word.lower() in prompt.lower()]
        return found[:count][::-1]

    def forget(self) -> None:
        """Forget every prompt, and delete the file. Raises OSError."""
        self._loaded_strings, self._loaded = [], True
        (self.file or path()).unlink(missing_ok=True)  # also where this session writes none


def _prompt(line: bytes) -> str:
    """The prompt of a line; none where the line is damaged."""
    try:
        prompt = json.loads(line)
    except ValueError:
        return ""
    return prompt if isinstance(prompt, str) else ""
