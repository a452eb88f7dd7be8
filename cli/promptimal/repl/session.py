"""The REPL: a line to type in, and below it, while you pause, the suggestion.

`run` opens it and returns when it is left. The session holds what is typed, what was suggested for it and what was taken; `keys` and
`commands` call its methods, `layout` shows it, `worker` does the rewriting in a thread of its own.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from dataclasses import replace

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.renderer import print_formatted_text  # that of the shortcuts gives up raw mode: what is typed meanwhile would be echoed
from prompt_toolkit.styles import DynamicStyle

from promptimal.models import Choice
from promptimal.repl import clipboard, commands, config, history, keys, layout, style, toolbar
from promptimal.repl.changes import shortened
from promptimal.repl.completion import CommandCompleter
from promptimal.repl.worker import Made, NotReady, Suggestion, Worker
from promptimal.terminal import visible

_HINT = "Tab takes it"


def run(settings: config.Settings, seed: int | None = None) -> None:
    """Open the REPL on the terminal, until it is left."""
    session = Session(settings, seed)
    with contextlib.suppress(EOFError, OSError):  # the terminal has gone; the history is kept already
        asyncio.run(session.run())


class Session:
    """What is on the screen, and what keys and commands do with it."""

    def __init__(self, settings: config.Settings, seed: int | None) -> None:
        self.settings = settings
        self.history = history.PromptHistory(history.path() if settings.history else None)
        self.worker = Worker(seed)
        self.made: Made | None = None
        self.chosen = 0
        self._last = ""  # the prompt that commands work on
        self._taken = ""  # the suggestion that was taken into the line
        self._asked = ""  # the line that Enter was pressed on
        self._walked = False  # suggestions are looked at though the line is not their prompt
        self._seen: frozenset[str] = frozenset()  # suggestions that were not wanted
        self._away: list[str] = []  # lines that were put away or cleared
        self._request = ""  # the beginning of the suggestion under way
        self._message = ""
        self._loading = ""
        self._working = False
        self._job: asyncio.Task[None] | None = None
        self._printing: asyncio.Task[None] | None = None
        self.buffer = Buffer(
            history=self.history,
            completer=CommandCompleter(),
            complete_while_typing=Condition(lambda: self.is_command),
            on_text_changed=lambda buffer: self._typed(),
            tempfile_suffix=".txt",
        )
        self.app: Application[None] = Application(
            layout=layout.layout(self),
            key_bindings=keys.bindings(self),
            style=DynamicStyle(lambda: style.style(self.settings.colours)),
            color_depth=lambda: style.depth(self.settings.colours),
            mouse_support=Condition(lambda: self.settings.mouse),
            editing_mode=EditingMode(settings.editing.upper()),
            cursor=layout.cursor(),
        )
        self.app.ttimeoutlen = 0.05

    async def run(self) -> None:
        """Load the model while the person types, until they leave."""
        loop = asyncio.get_running_loop()
        for name in ("SIGHUP", "SIGTERM"):
            with contextlib.suppress(NotImplementedError, AttributeError):
                loop.add_signal_handler(getattr(signal, name), self.leave)
        self.app.before_render += self._wipe
        try:
            await self.app.run_async(pre_run=lambda: self._load(self.settings))
        finally:
            if not self.is_command:
                self.history.keep(self.buffer.text)

    # What is there

    @property
    def is_command(self) -> bool:
        """Whether the line is a command."""
        return commands.is_command(self.buffer.text)

    def visible_suggestion(self) -> Suggestion | None:
        """The suggestion to show below the line."""
        text = self.buffer.text
        if self.made and (text == self.made.prompt or (self._walked and text in ("", self._taken))):
            return self.made.suggestions[self.chosen]
        return None

    def subject(self) -> Suggestion | None:
        """The suggestion that commands work on."""
        return self.made.suggestions[self.chosen] if self.made and self._last in (self.made.prompt, self._taken) else None

    def result(self) -> str:
        """What is to be copied, saved and opened: the suggestion, or the person's own text where it came later."""
        subject = self.subject()
        return subject.rewrite.text if subject and self.made and self._last == self.made.prompt else self._last

    # What keys do

    def enter(self) -> None:
        """Run a command; rewrite a prompt now; put away one that Enter was pressed on before, or a suggestion that was taken."""
        text = self.buffer.text
        if not text.strip():
            return
        if self.is_command:
            commands.run(self, text)
        elif text == self._taken or (text == self._asked and self._job is None):
            self._put_away()
        else:
            self._asked = text
            self._keep(text)
            if not self.visible_suggestion() and not self._working:
                self._begin(text)

    def take(self) -> None:
        """Take the suggestion into the line, and copy it."""
        found = self.visible_suggestion() or (self.subject() if not self.buffer.text else None)
        if found is None:
            self.say("no suggestion yet: Enter makes one")
            return
        self._keep(self.buffer.text)
        self._taken = self._last = found.rewrite.text
        self.replace(found.rewrite.text)
        if self.settings.copy:
            self.copy(found.rewrite.text, "taken and ")
        else:
            self.say("taken: Ctrl-Z gives back what was typed")

    def walk(self, step: int) -> None:
        """Show the next suggestion, or the previous one."""
        if not self.made or self.buffer.text not in (self.made.prompt, self._taken, ""):
            self.say("no suggestions yet: Enter makes them")
        elif len(self.made.suggestions) == 1:
            self.say("there is no other suggestion: /retry looks for more")
        else:
            self._walked, self._message = True, ""
            self.chosen = (self.chosen + step) % len(self.made.suggestions)

    def undo(self) -> None:
        """Give back what was typed: before a suggestion was taken, before the last change, or the line put away last."""
        before = self.buffer.text
        self.buffer.undo()
        if self.buffer.text == before:
            if before or not self._away:
                self.say("nothing to give back")
            else:
                self.replace(self._away.pop())

    def interrupt(self) -> None:
        """Cancel what runs, or clear the line."""
        if self._working:
            self._cancel()
            self.say("cancelled: Enter rewrites it after all")
        elif self.buffer.text:
            if not self.is_command:
                self._keep(self.buffer.text)
                self._last = self.buffer.text
            self.clear()
            self.say("cleared: Ctrl-Z gives it back")
        else:
            self.say("Ctrl-D leaves")

    def leave(self) -> None:
        """End the session."""
        self._cancel()
        if not self.app.is_done:
            self.app.exit()

    def open_editor(self) -> None:
        """Open the line in the person's editor."""
        self.buffer.open_in_editor()

    # What commands do

    def say(self, text: str) -> None:
        """A message below the line, until the next change."""
        self._message = text
        self.app.invalidate()

    def add(self, text: str) -> None:
        """A message that nobody waits for, below the one that stands there: an answer to a command is not to be written over."""
        self.say(f"{self._message}\n{text}".lstrip("\n"))

    def show(self, text: StyleAndTextTuples) -> None:
        """Print above the line, to stay; in order, as soon as the terminal has told where its cursor is."""
        self._printing = self.app.create_background_task(self._print(text, self._printing))

    async def _print(self, text: StyleAndTextTuples, before: "asyncio.Task[None] | None") -> None:
        if before:
            await before
        await self.app.renderer.wait_for_cpr_responses()  # an answer that comes after the printing would place the line wrongly
        sheet, depth = style.style(self.settings.colours), style.depth(self.settings.colours)
        self.app.renderer.erase()
        print_formatted_text(self.app.output, text, sheet, color_depth=depth)
        self.app.renderer.request_absolute_cursor_position()
        self.app.invalidate()

    def replace(self, text: str) -> None:
        """Put a text into the line; Ctrl-Z takes it back."""
        self.buffer.save_to_undo_stack()
        self.buffer.document = Document(text)

    def clear(self) -> None:
        """Empty the line; Ctrl-Z gives it back, unless it was a command."""
        if self.buffer.text and not self.is_command:
            self._away.append(self.buffer.text)
        self.buffer.reset()
        self._typed()

    def copy(self, text: str, before: str) -> None:
        """Copy a text to the clipboard and say so; `before` begins the message."""

        sequences: list[str] = []

        async def copy() -> None:
            way = await asyncio.to_thread(clipboard.copy, text, sequences.append)
            for sequence in sequences:
                self.app.output.write_raw(sequence)
            self.app.output.flush()
            self.say(f"{before}copied ({way})" if way else f"{before}not copied: no clipboard within reach, /save FILE keeps it")

        self.app.create_background_task(copy())

    def set(self, key: str, value: str) -> None:
        """Set a key for this session, as typed."""
        if key in ("model", "api_base"):
            self._load(config.changed(self.settings, key, value.strip("\"'")), self.again)
            return
        try:
            self.settings = config.changed(self.settings, key, config.parsed(value))
        except config.BadConfig as error:
            self.say(str(error))
            return
        if key == "editing":
            self.app.editing_mode = EditingMode(self.settings.editing.upper())
        elif key == "history":
            self.history.file = history.path() if self.settings.history else None
        self.say(f"{key} is {getattr(self.settings, key)} now, for this session")
        if key == "suggestions":
            self.again()

    def again(self, *, other: bool = False) -> bool:
        """Make suggestions for the last prompt again, others if wanted; False where there is no prompt."""
        prompt = self.made.prompt if self.made and self.subject() else self._last
        if not prompt:
            return False
        seen = {suggestion.rewrite.text for suggestion in self.made.suggestions} if other and self.made and self.subject() else set()
        seen |= self._seen if other else set()
        message, self.made = self._message, None
        self.replace(prompt)
        self._seen = frozenset(seen)
        self._begin(prompt)
        self.say(message)
        return True

    def forget(self) -> None:
        """Forget every prompt. Raises OSError."""
        self.history.forget()
        self._away.clear()
        self.clear()
        self.made, self._last, self._taken = None, "", ""
        self.say("forgotten: no earlier prompt is kept")

    # What is shown

    def suggestion_text(self) -> StyleAndTextTuples:
        """The suggestion, or what there is of it yet."""
        found = self.visible_suggestion()
        if found is None or self.made is None:
            return [("class:kept", visible(shortened(self._request))), ("class:hint", " …")] if self._request else []
        count = len(self.made.suggestions)
        width = self.app.output.get_size().columns - len(layout.INDENT)
        more = ", Ctrl-N shows the next" if count > 1 else ""
        shown = layout.suggestion(found, f"{self.chosen + 1} of {count}" if count > 1 else "", _HINT + more)
        return layout.wrapped(shown, width)

    def message_text(self) -> StyleAndTextTuples:
        """The message."""
        return [("class:message", visible(self._message))] if self._message else []

    def toolbar_text(self) -> str:
        """The toolbar."""
        state = self._loading or (
            "rewriting …" if self._working else toolbar.speed(self.made.seconds, self.made.tokens) if self.made else "/help"
        )
        mode = "" if self.app.editing_mode == EditingMode.EMACS else self.app.vi_state.input_mode.value.removeprefix("vi-")
        return toolbar.toolbar(self.app.output.get_size().columns, visible(self.worker.name), visible(state), mode)

    def _wipe(self, app: "Application[None]") -> None:
        """Before the first drawing: keys typed earlier were echoed by the system, where the line is to stand."""
        app.before_render -= self._wipe
        app.output.write_raw("\r")
        app.output.erase_end_of_line()

    # How suggestions are made

    def _typed(self) -> None:
        """The line has changed: what runs is for nothing, and a suggestion is due after a pause."""
        self._cancel()
        text = self.buffer.text
        self._message, self._asked, self._walked = "", "", False
        known = self.made is not None and text in (self.made.prompt, self._taken)
        if text and not known and not self.is_command:
            self._seen = frozenset()
        if self.settings.automatic and text.strip() and not known and not self.is_command and self.app.is_running:
            self._begin(text, self.settings.pause)

    def _begin(self, prompt: str, pause: float = 0) -> None:
        self._cancel()
        self._job = self.app.create_background_task(self._suggest(prompt, pause))

    def _cancel(self) -> None:
        if self._job:
            self._job.cancel()
        self._job, self._working, self._request = None, False, ""

    async def _suggest(self, prompt: str, pause: float) -> None:
        await asyncio.sleep(pause)
        self._working = True
        self.app.invalidate()

        def show(request: str) -> None:
            if self._working and self.buffer.text == prompt:
                self._request = request
                self.app.invalidate()

        try:
            made = await self.worker.suggest(prompt, self.settings.suggestions, self._seen, show)
        except NotReady as error:
            self._message = f"no suggestion: {error}"
        else:
            self._show_made(made)
        self._job, self._working, self._request = None, False, ""
        self.app.invalidate()

    def _show_made(self, made: Made) -> None:
        if not made.suggestions:
            self._message = "there are no other suggestions: Enter shows the first ones again"
            self._seen = frozenset()
            return
        self.made, self.chosen, self._last, self._taken, self._walked = made, 0, made.prompt, "", False

    def _load(self, settings: config.Settings, then: Callable[[], object] = lambda: None) -> None:
        """Load the settings' model in the background, and go on with `then`; where that fails, the one loaded before stays."""

        def loading(text: str) -> None:
            self._loading = text
            self.app.invalidate()

        async def load() -> None:
            loading("loading the model …")
            try:
                await self.worker.load(Choice(settings.api_base, settings.model), loading)
            except NotReady as error:
                self.add(f"the model cannot be used: {error}")
            else:
                self.settings = replace(self.settings, model=settings.model, api_base=settings.api_base)
                then()
            finally:
                loading("")

        self.app.create_background_task(load())

    def _keep(self, prompt: str) -> None:
        """Remember a prompt; say once where that cannot be done."""
        self.history.keep(prompt)
        if self.history.fault:
            self.add(self.history.fault)
            self.history.fault, self.history.file = "", None

    def _put_away(self) -> None:
        """Print the line and its suggestion above, and begin a new one."""
        text = self.buffer.text
        found = self.subject() if self.made and text in (self.made.prompt, self._taken) else None
        typed = found.rewrite.prompt if found else text
        shown: StyleAndTextTuples = [("class:prompt", layout.MARK), ("", visible(shortened(typed)) + "\n")]
        if found:
            shown += [*layout.marked(found), ("", "\n")]
        self._last = text
        self._keep(text)
        self.show([*shown, ("", "\n")])
        self.clear()
