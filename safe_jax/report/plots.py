"""Figures as SVG, with the colours and the font of the page.

Matplotlib draws in colours that each stand for an ink; they are then replaced by the CSS variable
of that ink. So one drawing serves the light and the dark scheme, and text stays text.
"""

import contextlib
import html
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, NullLocator

from safe_jax.report.texts import visible

# So few that each differs from the others in both schemes. More lines than inks repeat the inks,
# with other markers.
SERIES = tuple(f"series-{n}" for n in range(1, 7))
SHOTS = tuple(f"shots-{n}" for n in range(1, 7))
_INKS = ("text", "muted", "rule", *SERIES, *SHOTS)
_COLOUR = {ink: f"#0000{number:02x}" for number, ink in enumerate(_INKS, 1)}
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼"}  # Matplotlib's; in the legend
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": _COLOUR["text"],
    "axes.edgecolor": _COLOUR["muted"],
    "axes.titlecolor": _COLOUR["text"],
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "axes.labelcolor": _COLOUR["muted"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.xmargin": 0.03,
    "grid.color": _COLOUR["rule"],
    "xtick.color": _COLOUR["muted"],
    "ytick.color": _COLOUR["muted"],
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "errorbar.capsize": 2.5,
}


class Line(NamedTuple):
    """A line of a figure, and its key in the legend."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    sd: Sequence[float] | None = None
    ink: str = "text"
    marker: str = ""
    marked: list[int] | None = None  # indices of the points with a marker; all by default
    dashed: bool = False
    level: bool = False  # across the whole figure, at the first y

    @property
    def glyph(self) -> str:
        return MARKERS.get(self.marker, "")


class Figure(NamedTuple):
    """A drawing, and the lines that its legend names."""

    svg: str
    lines: list[Line]


class Panels(NamedTuple):
    """Small drawings side by side, each with its label, and the lines of their one legend."""

    svgs: list[tuple[str, str]]
    lines: list[Line]
    is_shared: bool  # whether all have one y axis


def draw(
    name: str, title: str, x_label: str, alt: str, lines: list[Line], shots: bool = False
) -> Figure:
    """Draws lines; the same lines give the same bytes.

    Args:
        name: unique on a page, as ids in the SVG are made of it.
        shots: whether x is shots: then its axis is logarithmic.
    """
    with _canvas(name, (4.4, 2.9)) as canvas:
        axes = canvas.add_subplot()
        axes.set_title(title)
        axes.set_xlabel(x_label)
        if shots:
            _shots_axis(axes, sorted({x for line in lines for x in line.x}))
        barred = [line for line in lines if line.sd]
        for line in lines:
            # In doublings of x: error bars stand side by side and do not hide each other.
            shift = (barred.index(line) - (len(barred) - 1) / 2) * 0.06 if line in barred else 0
            _draw_line(axes, line, shift)
        return Figure(_svg(canvas, alt), lines)


def draw_panels(
    name: str, x_label: str, alt: str, panels: Mapping[str, list[Line]], legend: list[Line]
) -> Panels:
    """Draws a small panel for each label; x are whole numbers. Otherwise as `draw`.

    Each panel is an SVG of its own: the page sets them in as many columns as it has room for.

    Args:
        alt: what every panel shows; its label is put before it.
        legend: the lines, of any panel, whose keys stand below all panels.
    """
    limits = _shared_limits(list(panels.values()))
    svgs = []
    for number, (label, lines) in enumerate(panels.items()):
        with _canvas(f"{name}-{number}", (2.1, 1.7)) as canvas:
            axes = canvas.add_subplot()
            axes.set_xlabel(x_label)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            if limits:
                axes.set_ylim(*limits)
            for line in lines:
                _draw_line(axes, line, 0)
            svgs.append((label, _svg(canvas, f"{label}: {alt}")))
    return Panels(svgs, legend, limits is not None)


def _shared_limits(panels: Sequence[list[Line]]) -> tuple[float, float] | None:
    """Limits of y for all panels; None where one of them would become too flat to be read."""
    values = [[y for line in lines for y in line.y] for lines in panels]
    low, high = min(map(min, values)), max(map(max, values))
    spans = [span for y in values if (span := max(y) - min(y))]
    if not spans or min(spans) < _FLATTEST * (high - low):
        return None
    margin = 0.05 * (high - low)
    return low - margin, high + margin


_FLATTEST = 0.15  # the least part of a shared axis that the values of a panel span
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@contextlib.contextmanager
def _canvas(name: str, inches: tuple[float, float]) -> Iterator[Canvas]:
    """An empty drawing in the style of the page, whose ids are made of `name`."""
    with matplotlib.style.context(["default", _STYLE | {"svg.hashsalt": name}]):
        yield Canvas(figsize=inches, layout="constrained")


def _svg(canvas: Canvas, alt: str) -> str:
    file = io.StringIO()
    canvas.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    return _for_page(file.getvalue(), alt)


def _shots_axis(axes: Axes, shots: list[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(shots[0] / 1.3, shots[-1] * 1.3)
    # The least distance of two ticks, in doublings: room for a number of two digits.
    distance = (math.log2(shots[-1] / shots[0]) + 0.7) / 10
    ticks = shots[:1]
    for k in shots[1:]:
        if math.log2(k / ticks[-1]) >= distance:
            ticks.append(k)
    axes.set_xticks(ticks, map(str, ticks))
    axes.xaxis.set_minor_locator(NullLocator())


def _draw_line(axes: Axes, line: Line, shift: float) -> None:
    look: dict[str, Any] = {
        "color": _COLOUR[line.ink],
        "linestyle": (0, (4, 2.5)) if line.dashed else "-",
    }
    if line.level:
        axes.axhline(line.y[0], **look, linewidth=1.4)
        return
    look |= {"marker": line.marker, "markevery": line.marked}
    if not line.sd:
        axes.plot(line.x, line.y, **look)
        return
    x = [k * 2**shift for k in line.x]
    axes.errorbar(x, line.y, line.sd, **look, elinewidth=1.2)


def _for_page(svg: str, alt: str) -> str:
    """Drops what only a file of its own needs, and replaces colours by CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[\w.]+"', "<g", svg)  # the same ids in every figure
    svg = re.sub(r"font-family: [^;]+; ", "", svg)
    role = f'role="img" aria-label="{html.escape(visible(alt))}"'
    svg = re.sub(
        r'<svg[^>]* (viewBox="[^"]+")[^>]*>', lambda match: f"<svg {match[1]} {role}>", svg
    )
    svg = re.sub(r"\n\s*", "\n", svg)
    ink_of = {colour: ink for ink, colour in _COLOUR.items()}
    return re.sub(r"#0000[0-9a-f]{2}\b", lambda match: f"var(--{ink_of[match[0]]})", svg)
