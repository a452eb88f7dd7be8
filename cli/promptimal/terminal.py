"""What may reach a terminal: text, line ends and tabs. Control characters are shown, not sent."""

import re

# C0 and C1 controls but tab and line feed; zero-width, bidirectional and other invisible format characters; line separators.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    """The text with every character that could move a cursor, hide or reorder text written out, as in "\\x1b"."""
    return _UNSAFE.sub(_spell, text.replace("\r\n", "\n"))


def _spell(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
