"""The last line of the screen: the model, what it is doing or how fast it was, and vi's mode."""

from prompt_toolkit.utils import get_cwidth


def toolbar(width: int, model: str, state: str, mode: str) -> str:
    """Model on the left, state on the right; what does not fit is left out, the model's name first cut."""
    right = f"{mode}  {state}".strip()
    room = width - get_cwidth(right) - 3
    if room < 6:
        return f" {right}"[:width]
    left = model if get_cwidth(model) <= room else model[: room - 1] + "…"
    return f" {left}{' ' * (width - 2 - get_cwidth(left) - get_cwidth(right))}{right} "


def speed(seconds: float, tokens: int) -> str:
    """How long the last suggestions took, and their tokens by that time."""
    return f"{seconds:.2f} s · {tokens / seconds:,.0f} tokens/s" if seconds > 0 else ""
