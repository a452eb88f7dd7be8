"""Nothing raw reaches a terminal."""

from hypothesis import given
from hypothesis import strategies as st

from promptimal.terminal import visible


def test_controls_are_spelled_out() -> None:
    assert visible("a\x1b[31mb") == "a\\x1b[31mb"
    assert visible("\u202eevil\u200b") == "\\u202eevil\\u200b"
    assert visible("two\r\nlines\tand a tab") == "two\nlines\tand a tab"


@given(st.text())
def test_no_control_character_remains(text: str) -> None:
    assert all(c in "\n\t" or (c.isprintable() or ord(c) > 0x9F) for c in visible(text))
