"""The lines of each figure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from safe_jax.experiment.results import Row
from safe_jax.report import published, summary
from safe_jax.report.plots import MARKERS, SERIES, SHOTS, Figure, Line, Panels, draw, draw_panels
from safe_jax.report.runs import Experiment
from safe_jax.runtime.errors import counted

_GLYPHS = tuple(MARKERS)
_IMAGES = "labelled images a class"


class AlphaChoice(NamedTuple):
    """How a method's alpha was chosen."""

    label: str
    figures: list[Figure]  # none where alpha was fixed
    chosen: dict[int, str]  # by shots, a value for each seed


def accuracy(name: str, experiments: Sequence[Experiment]) -> Figure:
    """Accuracy against shots: a line for each method of each experiment."""
    tuned = [(e, method) for e in experiments for method in e.methods if method != "zero_shot"]
    lines: list[Line] = []
    ink_of: dict[str, str] = {}
    for n, (experiment, method) in enumerate(tuned):
        ink, marker = SERIES[n % len(SERIES)], _GLYPHS[n % len(_GLYPHS)]
        ink_of.setdefault(experiment.name, ink)
        label = summary.label(method)
        label = f"{experiment.name}: {label}" if len(experiments) > 1 else label
        lines.append(_with_error_bars(label, _by_shots(experiment, method), ink, marker))
    lines += _zero_shot(experiments, ink_of)
    theirs = [published.accuracy(experiment.first) for experiment in experiments]
    if all(published.METHOD in found for found in theirs):
        by_shots = theirs[0][published.METHOD]
        x = sorted({k for e in experiments for k in e.shots} & by_shots.keys())
        label = f"{summary.label(published.METHOD)}, published"
        lines.append(Line(label, x, [by_shots[k] for k in x], ink="muted", dashed=True))
    alt = "Accuracy against labelled images a class; the table has the numbers."
    return draw(name, "Accuracy (%)", _IMAGES, alt, lines, shots=True)


def _zero_shot(experiments: Sequence[Experiment], ink_of: Mapping[str, str]) -> list[Line]:
    """A line for each experiment, or one line if all their numbers are the same."""
    by_experiment = {
        e.name: _by_shots(e, "zero_shot") for e in experiments if "zero_shot" in e.methods
    }
    numbers = {x for values in by_experiment.values() for k in values for x in values[k]}
    label = summary.label("zero_shot")
    if len(experiments) > 1 and len(numbers) > 1:
        return [
            _with_error_bars(f"{name}: {label}", values, ink_of.get(name, "muted"))
            for name, values in by_experiment.items()
        ]
    return [_with_error_bars(label, v, "muted") for v in list(by_experiment.values())[:1]]


def _by_shots(experiment: Experiment, method: str) -> dict[int, list[float]]:
    return {k: experiment.accuracies(method, k) for k in experiment.shots}


def _with_error_bars(
    label: str,
    by_shots: Mapping[int, Sequence[float]],
    ink: str,
    marker: str = "",
    dashed: bool = False,
) -> Line:
    """Means over seeds, by shots. Without a marker, equal values make a level line."""
    by_shots = {k: values for k, values in by_shots.items() if values}
    mean, sd = zip(*map(summary.mean_sd, by_shots.values()), strict=True)
    level = not marker and len({x for values in by_shots.values() for x in values}) == 1
    bars = [x or float("nan") for x in sd] if any(sd) else None
    return Line(label, list(by_shots), mean, bars, ink, marker, dashed=dashed, level=level)


def alpha(name: str, experiment: Experiment) -> list[AlphaChoice]:
    """Accuracy against alpha, of each method for which alpha alone is chosen."""
    titles = {
        "val": "Validation accuracy (%): alpha is chosen here",
        "eval": f"Accuracy (%) on {experiment.first.split}: for inspection only",
    }
    choices = []
    for method in experiment.methods:
        rows = [row for row in experiment.rows if row.method == method and _is_along_alpha(row)]
        if not rows:
            continue
        chosen = {
            k: ", ".join(f"{row.alpha:.2f}" for row in of_shots)
            for k, of_shots in _rows_by_shots(rows).items()
        }
        figures = [
            _alpha_figure(f"{name}-{method}-{use}", title, use, rows)
            for use, title in titles.items()
            if all(use in row.curve and len(row.curve["alpha"]) > 1 for row in rows)
        ]
        choices.append(AlphaChoice(summary.label(method), figures, chosen))
    return choices


def _is_along_alpha(row: Row) -> bool:
    on_grid = row.alpha in row.curve.get("alpha", ())
    return on_grid and row.curve.keys() <= {"alpha", "val", "eval"}


def _alpha_figure(name: str, title: str, use: str, rows: Sequence[Row]) -> Figure:
    lines = []
    for number, (shots, of_shots) in enumerate(_rows_by_shots(rows).items()):
        grid = of_shots[0].curve["alpha"]
        mean = np.mean([row.curve[use] for row in of_shots], axis=0).tolist()
        chosen = sorted({grid.index(row.alpha) for row in of_shots if row.alpha is not None})
        lines.append(_shots_line(number, shots, grid, mean, chosen))
    alt = f"{title}: accuracy against alpha, a line for each number of shots, mean over seeds."
    return draw(name, title, "alpha (0: original pool, 1: tuned pool)", alt, lines)


def losses(name: str, experiment: Experiment) -> Panels | None:
    """The loss of every epoch, mean over seeds: a panel for each method that tunes.

    None where no method does.
    """
    tuned = [row for row in experiment.rows if row.losses]
    all_shots = sorted({row.shots for row in tuned})  # a number of shots looks alike in all panels
    panels: dict[str, list[Line]] = {}
    key_of: dict[int, Line] = {}
    for method in summary.methods(tuned):
        for shots, rows in _rows_by_shots([row for row in tuned if row.method == method]).items():
            mean = np.mean([row.losses for row in rows], axis=0).tolist()
            epochs = list(range(1, len(mean) + 1))
            line = _shots_line(all_shots.index(shots), shots, epochs, mean, [len(mean) - 1])
            panels.setdefault(summary.label(method), []).append(line)
            key_of[shots] = line
    if not panels:
        return None
    alt = "training loss against epochs, a line for each number of shots, mean over seeds."
    return draw_panels(name, "epoch", alt, panels, [key_of[shots] for shots in all_shots])


def attention(name: str, by_shots: Mapping[int, summary.Shares]) -> Figure:
    """The share of attention on the object, of both pools, against shots."""
    lines = []
    for share, ink, marker in (
        ("original", "text", "s"),
        ("tuned", SERIES[0], "o"),
        ("even", "muted", ""),
    ):
        values = {k: shares[share] for k, shares in by_shots.items()}
        if any(values.values()):
            label = summary.ATTENTION[share]
            lines.append(_with_error_bars(label, values, ink, marker, dashed=share == "even"))
    alt = "Share of attention on the object against shots; the table has the numbers."
    return draw(name, "Attention on the object (%)", _IMAGES, alt, lines, shots=True)


def _rows_by_shots(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Rows by shots, in the order of their seeds."""
    by_seed = sorted(rows, key=lambda row: row.seed)
    return {k: [row for row in by_seed if row.shots == k] for k in sorted({r.shots for r in rows})}


def _shots_line(
    number: int, shots: int, x: Sequence[float], y: Sequence[float], marked: list[int]
) -> Line:
    """The line of a number of shots, which is the `number`-th in its figure."""
    ink, marker = SHOTS[number % len(SHOTS)], _GLYPHS[number % len(_GLYPHS)]
    return Line(counted(shots, "shot"), x, y, ink=ink, marker=marker, marked=marked)
