"""Where things stand on the screen: the line, the commands that fit it, the suggestion, a message, the toolbar."""

from typing import TYPE_CHECKING

from prompt_toolkit.cursor_shapes import ModalCursorShapeConfig
from prompt_toolkit.filters import Condition, is_done
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.layout import BufferControl, ConditionalContainer, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.utils import get_cwidth
from prompt_toolkit.widgets import SearchToolbar

from promptimal.repl.changes import is_unchanged, shortened
from promptimal.terminal import visible

if TYPE_CHECKING:
    from promptimal.repl.session import Session
    from promptimal.repl.worker import Suggestion

MARK = "> "
INDENT = "  "


def layout(session: "Session") -> Layout:
    """The screen of a session."""
    search = SearchToolbar()
    line = BufferControl(session.buffer, [SpellOut()], search_buffer_control=search.control, preview_search=True)
    window = Window(line, wrap_lines=True, dont_extend_height=True, height=Dimension(min=1), get_line_prefix=_prefix)
    below = HSplit(
        [
            CompletionsMenu(max_height=16),
            _text(session.suggestion_text, indented=True),
            _text(session.message_text, indented=True),
            search,
            Window(),  # what is free stays between the message and the toolbar, so that nothing jumps
            Window(FormattedTextControl(session.toolbar_text), height=1, style="class:toolbar"),
        ]
    )
    return Layout(HSplit([window, ConditionalContainer(below, ~is_done)]), focused_element=window)


def cursor() -> ModalCursorShapeConfig:
    """A cursor that tells vi's modes."""
    return ModalCursorShapeConfig()


class SpellOut(Processor):
    """Control and invisible characters in the line are written out, as everywhere."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        """Spell out, and map positions there and back."""
        fragments: StyleAndTextTuples = []
        starts = [0]
        for style, text, *_ in transformation_input.fragments:
            for character in text:
                shown = visible(character)
                fragments.append((style, shown))
                starts.append(starts[-1] + len(shown))
        if starts[-1] == len(starts) - 1:
            return Transformation(transformation_input.fragments)
        return Transformation(
            fragments,
            source_to_display=lambda i: starts[min(i, len(starts) - 1)] + max(0, i - len(starts) + 1),
            display_to_source=lambda i: next((n for n, start in enumerate(starts) if start >= i), i - starts[-1] + len(starts) - 1),
        )


def suggestion(found: "Suggestion", position: str, hint: str) -> StyleAndTextTuples:
    """A suggestion with what it changed marked, and a quiet line below it."""
    if is_unchanged(found.rewrite):
        return [("class:hint", " · ".join(filter(None, ("stands as it is", position, position and hint))))]
    nothing = "" if found.rewrite.asks else "nothing to add"
    return [*marked(found), ("", "\n"), ("class:hint", " · ".join(filter(None, (position, nothing, hint))))]


def marked(found: "Suggestion") -> StyleAndTextTuples:
    """A suggestion's text, each part in its style."""
    return [(f"class:{part.kind}", visible(shortened(part.text))) for part in found.parts if part.kind != "left out"]


def wrapped(fragments: StyleAndTextTuples, width: int) -> StyleAndTextTuples:
    """Broken at blanks so that no word is cut that fits a line."""
    text = "".join(fragment[1] for fragment in fragments)
    breaks: set[int] = set()
    column, blank = 0, -1
    for i, character in enumerate(text):
        column = 0 if character == "\n" else column + get_cwidth(character)
        blank = i if character == " " else -1 if character == "\n" else blank
        if column > width and blank >= 0:
            breaks.add(blank)
            column, blank = get_cwidth(text[blank + 1 : i + 1]), -1
    result: StyleAndTextTuples = []
    position = 0
    for style, part, *_ in fragments:
        result.append((style, "".join("\n" if position + i in breaks else c for i, c in enumerate(part))))
        position += len(part)
    return result


def _text(text: object, indented: bool = False) -> ConditionalContainer:
    window = Window(
        FormattedTextControl(text),  # type: ignore[arg-type]
        wrap_lines=True,
        dont_extend_height=True,
        get_line_prefix=(lambda number, wrapped: INDENT) if indented else None,
    )
    return ConditionalContainer(window, Condition(lambda: bool(text())))  # type: ignore[operator]


def _prefix(number: int, wrapped: int) -> StyleAndTextTuples:
    return [("class:prompt", MARK if number == wrapped == 0 else INDENT)]
