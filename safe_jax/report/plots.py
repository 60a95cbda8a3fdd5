"""Figures as SVG that takes its colours and its font from the page.

Matplotlib lays a figure out with ink that stands for a name; the name then becomes a CSS variable
of the page. So one drawing serves light and dark, and text stays text.
"""

import dataclasses
import html
import io
import math
import re

import matplotlib.style
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullLocator

# Few enough that every one is told from the others in both schemes; then they come again, with
# another marker.
SERIES = tuple(f"series-{n}" for n in range(1, 7))
SHOTS = tuple(f"shots-{n}" for n in range(1, 7))
_INKS = ("text", "muted", "rule", *SERIES, *SHOTS)
_COLOUR = {ink: f"#0000{number:02x}" for number, ink in enumerate(_INKS, 1)}
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼"}  # in the figure; in the legend
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


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a figure, and its key in the legend."""

    label: str
    x: list[float]
    y: list[float]
    sd: list[float] | None = None
    ink: str = "text"
    marker: str = ""
    marked: list[int] | None = None  # which points have the marker; all by default
    dashed: bool = False
    level: bool = False  # across the whole figure, at the only height there is

    @property
    def glyph(self) -> str:
        return MARKERS.get(self.marker, "")


@dataclasses.dataclass(frozen=True)
class Figure:
    svg: str
    lines: list[Line]


def draw(name: str, title: str, x_label: str, alt: str, lines: list[Line], shots=False) -> Figure:
    """A figure of `lines`; with `shots`, x is shots, each a doubling from the next.

    `name` is unique on a page, for the parts of its figures are known by name; the same lines give
    the same bytes.
    """
    with matplotlib.style.context(["default", _STYLE | {"svg.hashsalt": name}]):
        canvas = Canvas(figsize=(4.4, 2.9), layout="constrained")
        axes = canvas.add_subplot()
        axes.set_title(title)
        axes.set_xlabel(x_label)
        if shots:
            _shots_axis(axes, sorted({x for line in lines for x in line.x}))
        barred = [line for line in lines if line.sd]
        for line in lines:
            # In doublings: error bars side by side do not hide each other.
            shift = (barred.index(line) - (len(barred) - 1) / 2) * 0.06 if line in barred else 0
            _line(axes, line, shift)
        file = io.StringIO()
        canvas.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    return Figure(_for_page(file.getvalue(), alt), lines)


_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def _shots_axis(axes, shots):
    axes.set_xscale("log", base=2)
    axes.set_xlim(shots[0] / 1.3, shots[-1] * 1.3)
    apart = (math.log2(shots[-1] / shots[0]) + 0.7) / 10  # what a number of two digits needs
    ticks = shots[:1]
    for k in shots[1:]:
        if math.log2(k / ticks[-1]) >= apart:
            ticks.append(k)
    axes.set_xticks(ticks, map(str, ticks))
    axes.xaxis.set_minor_locator(NullLocator())


def _line(axes, line, shift):
    look = {"color": _COLOUR[line.ink], "linestyle": (0, (4, 2.5)) if line.dashed else "-"}
    if line.level:
        axes.axhline(line.y[0], **look, linewidth=1.4)
        return
    look |= {"marker": line.marker, "markevery": line.marked}
    if not line.sd:
        axes.plot(line.x, line.y, **look)
        return
    x = [k * 2**shift for k in line.x]
    axes.errorbar(x, line.y, line.sd, **look, elinewidth=1.2)


def _for_page(svg, alt):
    """The drawing without what only a file of its own needs, coloured by the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[\w.]+"', "<g", svg)  # the same in every figure
    svg = re.sub(r"font-family: [^;]+; ", "", svg)
    box = re.search(r'viewBox="[^"]+"', svg)[0]
    svg = re.sub(r"<svg[^>]*>", f'<svg {box} role="img" aria-label="{html.escape(alt)}">', svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    names = {colour: ink for ink, colour in _COLOUR.items()}
    return re.sub(r"#0000[0-9a-f]{2}\b", lambda match: f"var(--{names[match[0]]})", svg)
