"""How things look: the terminal's own colours, so that light and dark themes both suit; without colours, bold and underline tell the same."""

from functools import cache

from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style

_PLAIN = {
    "prompt": "bold",
    "kept": "",
    "cleaned": "underline",
    "added": "bold",
    "left-out": "strike",
    "hint": "italic",
    "message": "italic",
    "toolbar": "reverse",
    "search-toolbar": "",
    "completion-menu": "noreverse",
    "completion-menu.completion": "",
    "completion-menu.completion.current": "reverse",
    "completion-menu.meta.completion": "italic",
    "completion-menu.meta.completion.current": "reverse",
    "scrollbar.background": "",
    "scrollbar.button": "reverse",
}
_COLOURED = {
    **_PLAIN,
    "prompt": "ansicyan",
    "cleaned": "ansicyan underline",
    "added": "ansigreen",
    "left-out": "ansired strike",
    "hint": "dim",
    "message": "ansiyellow",
    "toolbar": "dim",
    "completion-menu.meta.completion": "dim",
    "completion-menu.completion": "bg:default fg:default",
    "completion-menu": "bg:default fg:default",
}


@cache
def style(colours: bool) -> Style:
    """The style sheet."""
    return Style.from_dict(_COLOURED if colours else _PLAIN)


def depth(colours: bool) -> ColorDepth:
    """Sixteen colours, those of the person's theme, or none."""
    return ColorDepth.DEPTH_4_BIT if colours else ColorDepth.DEPTH_1_BIT
