"""Completion of commands and of what follows them; prompts are never completed."""

from collections.abc import Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from promptimal.repl import config
from promptimal.repl.commands import COMMANDS, is_command


class CommandCompleter(Completer):
    """Commands with their one-line help, files, settings and their values."""

    def __init__(self) -> None:
        self._files = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What may stand at the cursor."""
        before = document.text_before_cursor
        if not is_command(document.text):
            return
        name, blank, rest = before[1:].partition(" ")
        if not blank:
            for command in COMMANDS:
                if command.name.startswith(name):
                    yield Completion(f"/{command.name}", -len(before), command.usage, display_meta=command.help)
        elif name in ("save", "model"):
            yield from self._files.get_completions(Document(rest), complete_event)
        elif name == "set":
            yield from _settings(rest)


def _settings(rest: str) -> Iterable[Completion]:
    key, blank, value = rest.partition(" ")
    if not blank:
        for name in config.KEYS:
            if name.startswith(key):
                yield Completion(name, -len(key), display_meta=config.rule_of(name).help)
    elif key in config.KEYS:
        for word in config.words(key):
            if word.startswith(value):
                yield Completion(word, -len(value))
