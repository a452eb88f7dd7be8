"""What can be typed after a "/": each command a function of the session and of the text after its name, with one line of help.

Commands work on the last prompt: the line that was put away, or that stood there before it was deleted.
"""

import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from promptimal.repl import config
from promptimal.repl.changes import changes, is_unchanged, shortened
from promptimal.repl.layout import wrapped
from promptimal.terminal import visible

if TYPE_CHECKING:
    from prompt_toolkit.formatted_text import StyleAndTextTuples

    from promptimal.repl.session import Session
    from promptimal.repl.worker import Suggestion

_COMMAND = re.compile(r"/[A-Za-z]*(?: [^\n]*)?")

_NOTHING = "there is no suggestion yet: type a prompt, or take one back with Ctrl-Z"

KEYS = """\
Enter        rewrite now; Enter again puts the prompt away and begins a new one
Tab          take the suggestion into the line, and copy it
Ctrl-N/-P    the next or previous suggestion
Ctrl-Z       give back what was typed
Alt-Enter    a new line
Up, Ctrl-R   earlier prompts; search them
Ctrl-X Ctrl-E  open the line in your editor
Ctrl-C       cancel what runs, or clear the line; Ctrl-D leaves
"""


class Command(NamedTuple):
    """A command. `usage` is how it is written."""

    name: str
    usage: str
    help: str
    run: "Callable[[Session, str], None]"


def is_command(line: str) -> bool:
    """Whether a line is a command. "/usr/bin is what?" and " /n" (with a blank) are prompts."""
    return bool(_COMMAND.fullmatch(line))


def run(session: "Session", line: str) -> bool:
    """Run a line that is a command; False where there is no such command."""
    name, _, argument = line[1:].strip().partition(" ")
    command = next((c for c in COMMANDS if c.name == name), None)
    if command is None:
        near = get_close_matches(name, [c.name for c in COMMANDS], 1, cutoff=0.4)
        hint = f"did you mean /{near[0]}?" if near else "/help lists them"
        session.say(f"no command is called /{name}: {hint} (a blank before the / makes it a prompt)")
        return False
    session.clear()
    command.run(session, argument.strip())
    return True


def _print(session: "Session", name: str, text: "StyleAndTextTuples") -> None:
    """The command and what it answers, to stay above the line."""
    width = session.app.output.get_size().columns
    session.show([("class:prompt", "> "), ("", f"{name}\n"), *wrapped(text, width), ("", "\n")])


def _copy(session: "Session", argument: str) -> None:
    text = session.result()
    session.copy(text, "") if text else session.say(_NOTHING)


def _save(session: "Session", argument: str) -> None:
    text = session.result()
    if not text or not argument:
        session.say("write  /save FILE" if text else _NOTHING)
        return
    try:
        file = Path(argument).expanduser()
        _write_new(file, f"{text}\n".encode(errors="replace"))
    except FileExistsError:
        session.say(f"{argument} is there already: choose another name")
    except (OSError, RuntimeError, ValueError) as error:
        session.say(f"cannot write {argument}: {getattr(error, 'strerror', None) or error}")
    else:
        session.say(f"saved to {file}")


def _write_new(file: Path, data: bytes) -> None:
    """Write a file that is not there yet, whole or not at all. Raises OSError."""
    with file.open("xb") as stream:
        try:
            stream.write(data)
            stream.flush()
        except BaseException:
            file.unlink()
            raise


def _open(session: "Session", argument: str) -> None:
    session.replace(session.result())
    session.open_editor()


def _diff(session: "Session", argument: str) -> None:
    suggestion = session.subject()
    if suggestion is None:
        session.say(_NOTHING)
        return
    marks = {"left out": ("class:left-out", "[-", "-]"), "cleaned": ("class:cleaned", "{+", "+}"), "added": ("class:added", "{+", "+}")}
    shown: StyleAndTextTuples = []
    for part in changes(suggestion.rewrite):
        style, before, after = marks.get(part.kind, ("class:kept", "", ""))
        blank = part.text[: len(part.text) - len(part.text.lstrip())] if before else ""
        text = part.text[len(blank) :]
        shown.append((style, f"{blank}{before}{visible(shortened(text))}{after}" if text else ""))
    _print(session, "/diff", [*shown, ("", "\n")])


def _why(session: "Session", argument: str) -> None:
    suggestion = session.subject()
    if suggestion is None:
        session.say(_NOTHING)
        return
    _print(session, "/why", [("", visible("".join(f"{name:<9}{text}\n" for name, text in _reasons(suggestion))))])


def _reasons(suggestion: "Suggestion") -> list[tuple[str, str]]:
    """What was done, in lines of a name and a text."""
    rewrite = suggestion.rewrite
    lines = [("request", "in your own words" if rewrite.kept else "put in the model's words")]
    lines += [("added", ask) for ask in rewrite.asks]
    lines += [("sure", f"{rewrite.score:.0%} that the first helps")] if rewrite.asks else []
    if not rewrite.asks:
        lines.append(("added", "nothing: no ask was sure enough to help" if not is_unchanged(rewrite) else "nothing: it stands as it is"))
    if rewrite.faults:
        return [*lines, ("check", f"{'; '.join(rewrite.faults)}: so the model's words were not taken")]
    return [*lines, ("check", "not needed, your words stand" if rewrite.kept else "nothing lost in the model's words, nothing new in them")]


def _n(session: "Session", argument: str) -> None:
    if argument:
        session.set("suggestions", argument)
    else:
        session.say(f"{session.settings.suggestions} suggestions a prompt: /n 5 makes five")


def _model(session: "Session", argument: str) -> None:
    if argument:
        session.set("model", '""' if argument == "default" else argument)
    else:
        session.say(f"the model is {session.worker.name or 'not loaded'}: /model PATH loads another, /model default the default one")


def _set(session: "Session", argument: str) -> None:
    key, _, value = argument.partition(" ")
    if value:
        session.set(key, value.strip().removeprefix("=").strip())
        return
    lines = [line for line in config.document(session.settings).splitlines() if not line.startswith("#") and line]
    found = [line for line in lines if not key or line.startswith(f"{key} =")]
    _print(session, "/set", [("", "\n".join(map(visible, found)) + "\n")]) if found else session.set(key, "")


def _history(session: "Session", argument: str) -> None:
    prompts = session.history.newest(20, argument)
    if not prompts:
        session.say(f'no prompt with "{argument}"' if argument else "no prompts yet")
        return
    _print(session, "/history", [("", "".join(f"{visible(' '.join(prompt.split())[:200])}\n" for prompt in prompts))])


def _forget(session: "Session", argument: str) -> None:
    try:
        session.forget()
    except OSError as error:
        session.say(f"cannot delete {session.history.file}: {error.strerror}")


def _retry(session: "Session", argument: str) -> None:
    if not session.again(other=True):
        session.say(_NOTHING)


def _help(session: "Session", argument: str) -> None:
    lines = "".join(f"{command.usage:<13}{command.help}\n" for command in COMMANDS)
    _print(session, "/help", [("", f"{lines}\n{KEYS}")])


def _quit(session: "Session", argument: str) -> None:
    session.leave()


COMMANDS = (
    Command("copy", "/copy", "copy the suggestion to the clipboard", _copy),
    Command("save", "/save FILE", "write the suggestion to a new file", _save),
    Command(
        "open", "/open", f"open the prompt in your editor ({os.environ.get('VISUAL') or os.environ.get('EDITOR') or 'set EDITOR'})", _open
    ),
    Command("diff", "/diff", "show what the suggestion changed, word by word", _diff),
    Command("why", "/why", "show what was added and what the fidelity check saw", _why),
    Command("retry", "/retry", "make other suggestions for the prompt", _retry),
    Command("n", "/n N", "make N suggestions a prompt, 1 to 8", _n),
    Command("model", "/model PATH", "load another model; alone: name the model", _model),
    Command("set", "/set KEY VALUE", "change a setting for this session; alone: show them", _set),
    Command("history", "/history WORD", "list earlier prompts, those with WORD", _history),
    Command("forget", "/forget", "forget every prompt and delete the history file", _forget),
    Command("help", "/help", "list commands and keys", _help),
    Command("quit", "/quit", "leave, as Ctrl-D does", _quit),
)
