"""Which key does what; all editing keys are prompt_toolkit's own, Emacs or vi."""

from typing import TYPE_CHECKING

from prompt_toolkit.filters import Condition, completion_is_selected, has_completions, has_focus
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

if TYPE_CHECKING:
    from promptimal.repl.session import Session


def bindings(session: "Session") -> KeyBindings:
    """The session's own keys."""
    keys = KeyBindings()
    buffer = session.buffer
    typing = has_focus(buffer)
    command = Condition(lambda: session.is_command)
    empty = Condition(lambda: not buffer.text)

    @keys.add("enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        session.enter()

    @keys.add("escape", "enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        buffer.newline(copy_margin=False)

    @keys.add("tab", filter=typing & ~command)
    def _(event: KeyPressEvent) -> None:
        session.take()

    @keys.add("tab", filter=typing & command)
    def _(event: KeyPressEvent) -> None:
        if buffer.complete_state:
            buffer.complete_next()
        else:
            buffer.start_completion(insert_common_part=True)

    @keys.add("c-n", filter=typing & ~has_completions)
    def _(event: KeyPressEvent) -> None:
        session.walk(1)

    @keys.add("c-p", filter=typing & ~has_completions)
    def _(event: KeyPressEvent) -> None:
        session.walk(-1)

    @keys.add("c-z", filter=typing, save_before=lambda event: False)
    def _(event: KeyPressEvent) -> None:
        session.undo()

    @keys.add("c-x", "c-e", filter=typing)
    def _(event: KeyPressEvent) -> None:
        session.open_editor()

    @keys.add("escape", filter=typing & completion_is_selected, eager=True)
    def _(event: KeyPressEvent) -> None:
        buffer.cancel_completion()

    @keys.add("c-c", filter=typing)
    @keys.add("<sigint>")
    def _(event: KeyPressEvent) -> None:
        session.interrupt()

    @keys.add("c-d", filter=typing & empty)
    def _(event: KeyPressEvent) -> None:
        session.leave()

    return keys
