"""A report's plots as SVG for a page of HTML: text stays text, and lines take the page's own colours, light or dark.

What is told apart is told by marker, dash and label, never by colour alone.
"""

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

_INK = "#010203"  # stands for the page's text colour
_STYLES = (("#0b6e99", "o", "-"), ("#b4540a", "s", "--"), ("#5b3fa0", "^", "-."), ("#2e7d32", "D", ":"))


class Line(NamedTuple):
    """Points to be joined; `markers` where each is a measurement of its own."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    markers: bool = True


class Point(NamedTuple):
    """A single measurement, with its 95% interval if it has one."""

    label: str
    value: float
    low: float
    high: float


def lines(series: Sequence[Line], x: str, y: str, log: bool = False) -> str:
    """Lines over a common axis, as an SVG element; `log` spreads the x axis by powers of ten."""
    figure, axes = _figure(3.2)
    for number, line in enumerate(series):
        colour, marker, dash = _STYLES[number % len(_STYLES)]
        axes.plot(
            line.x, line.y, dash, color=colour, marker=marker if line.markers else None, markersize=5, linewidth=1.6, label=line.label
        )
    if log:
        axes.set_xscale("symlog", linthresh=100)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=9)
    return _svg(figure)


def intervals(points: Sequence[Point], x: str, reference: float) -> str:
    """A line each for values with their intervals, and a dashed one where nothing is gained or lost, as an SVG element."""
    figure, axes = _figure(0.9 + 0.36 * len(points))
    for row, point in enumerate(reversed(points)):
        axes.plot([point.low, point.high], [row, row], color=_STYLES[0][0], linewidth=2, marker="|", markersize=9)
        axes.plot([point.value], [row], "o", color=_STYLES[0][0], markersize=6)
    axes.axvline(reference, color=_INK, linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(points)), [point.label for point in reversed(points)])
    axes.set_ylim(-0.6, len(points) - 0.4)
    axes.set_xlabel(x)
    axes.grid(axis="x", alpha=0.25)
    return _svg(figure)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: nothing global is touched

    figure = Figure(figsize=(7.0, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(_INK)
    axes.tick_params(colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    return figure, axes


def _svg(figure: Any) -> str:
    """The figure as an element that takes the page's font and colours, the same for the same figure."""
    import matplotlib

    for legend in (axes.get_legend() for axes in figure.axes):
        for text in legend.get_texts() if legend else ():
            text.set_color(_INK)
    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "promptimal", "font.family": "sans-serif"}):
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=metadata)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    for number, (colour, _, _) in enumerate(_STYLES):
        svg = svg.replace(colour, f"var(--line-{number}, {colour})")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    return re.sub(
        r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"|(<svg[^>]*?) width="[^"]*"([^>]*?) height="[^"]*"', r"\1\2\3\4", svg, count=1
    )


def apart(svgs: Sequence[str]) -> list[str]:
    """The same elements with ids that do not clash on one page."""
    return [re.sub(r'((?:\bid="|url\(#|href="#))', rf"\g<1>p{number}-", svg) for number, svg in enumerate(svgs)]
