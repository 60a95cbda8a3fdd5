"""Which lines each figure has."""

import dataclasses

import numpy as np

from safe_jax.report import published, summary
from safe_jax.report.plots import MARKERS, SERIES, SHOTS, Figure, Line, draw
from safe_jax.report.runs import Experiment

_GLYPHS = tuple(MARKERS)
_IMAGES = "labelled images a class"


@dataclasses.dataclass(frozen=True)
class Alpha:
    """How one method's alpha was chosen."""

    label: str
    figures: list[Figure]  # none where alpha was fixed
    chosen: dict[int, str]  # by shots, one a seed


def accuracy(name: str, experiments: list[Experiment]) -> Figure:
    """Accuracy against shots: a line for each method, of each experiment."""
    joint = len(experiments) > 1
    lines, ink_of = [], {}
    for experiment in experiments:
        for method in experiment.methods:
            if method == "zero_shot":
                continue
            ink, marker = SERIES[len(lines) % len(SERIES)], _GLYPHS[len(lines) % len(_GLYPHS)]
            ink_of.setdefault(experiment.name, ink)
            label = summary.label(method)
            label = f"{experiment.name}: {label}" if joint else label
            values = {k: experiment.accuracies(method, k) for k in experiment.shots}
            lines.append(_with_error_bars(label, values, ink, marker))
    zero_shot = [e for e in experiments if "zero_shot" in e.methods]
    same = len({x for e in zero_shot for k in e.shots for x in e.accuracies("zero_shot", k)}) == 1
    for experiment in zero_shot[:1] if same else zero_shot:
        values = {k: experiment.accuracies("zero_shot", k) for k in experiment.shots}
        named = joint and not same
        label = f"{experiment.name}: zero-shot" if named else "zero-shot"
        ink = ink_of.get(experiment.name, "muted") if named else "muted"
        lines.append(_with_error_bars(label, values, ink))
    if is_published(experiments[0]) and released(experiments):
        y = published.by_method(experiments[0].dataset)[published.METHOD]
        x = sorted({k for e in experiments for k in e.shots} & y.keys())
        label = f"{published.METHOD}, published"
        lines.append(Line(label, x, [y[k] for k in x], ink="muted", dashed=True))
    alt = "Accuracy against labelled images a class; the table has the numbers."
    return draw(name, "Accuracy (%)", _IMAGES, alt, lines, shots=True)


def _with_error_bars(label, values, ink, marker="", dashed=False):
    """Of `values` by shots; level where all are one number."""
    values = {k: of_seeds for k, of_seeds in values.items() if of_seeds}
    mean, sd = zip(*map(summary.mean_sd, values.values()), strict=True)
    level = not marker and len({x for of_seeds in values.values() for x in of_seeds}) == 1
    bars = [x or float("nan") for x in sd] if any(sd) else None
    return Line(label, list(values), list(mean), bars, ink, marker, dashed=dashed, level=level)


def is_published(experiment: Experiment) -> bool:
    """Whether there are published figures of the images that were evaluated on."""
    return experiment.dataset in published.ACCURACY and experiment.split == "test"


def released(experiments: list[Experiment]) -> bool:
    """Whether the weights are those of the published figures, by their name."""
    return {e.weights.partition("@")[0] for e in experiments} == {published.WEIGHTS}


def alpha(name: str, experiment: Experiment) -> list[Alpha]:
    """Accuracy against alpha, of each method that has no other knob to choose."""
    found = []
    for method in experiment.methods:
        rows = [r for r in experiment.rows if r["method"] == method and _along_alpha(r)]
        if not rows:
            continue
        chosen = {
            k: ", ".join(f"{row['alpha']:.2f}" for row in of_shots)
            for k, of_shots in _by_shots(rows).items()
        }
        figures = [
            _alpha(f"{name}-{method}-{use}", title, use, rows)
            for use, title in (
                ("val", "Validation accuracy (%): alpha is chosen here"),
                ("eval", f"Accuracy (%) on {experiment.split}: for inspection only"),
            )
            if all(use in row["curve"] and len(row["curve"]["alpha"]) > 1 for row in rows)
        ]
        found.append(Alpha(summary.label(method), figures, chosen))
    return found


def _along_alpha(row):
    curve = row.get("curve") or {}
    return "alpha" in curve and curve.keys() <= {"alpha", "val", "eval"}


def _alpha(name, title, use, rows):
    lines = []
    for number, (shots, of_shots) in enumerate(_by_shots(rows).items()):
        grid = of_shots[0]["curve"]["alpha"]
        mean = np.mean([row["curve"][use] for row in of_shots], axis=0)
        at = sorted({grid.index(row["alpha"]) for row in of_shots})
        lines.append(_of_shots(number, shots, grid, mean.tolist(), at))
    alt = f"{title}: accuracy against alpha, a line for each number of shots, mean over seeds."
    return draw(name, title, "alpha (0: original pool, 1: tuned pool)", alt, lines)


def losses(name: str, experiment: Experiment) -> list[tuple[str, Figure]]:
    """The loss of every epoch, mean over seeds, of each method that tunes."""
    found = []
    for method in experiment.methods:
        rows = [row for row in experiment.rows if row["method"] == method and row.get("losses")]
        lines = []
        for number, (shots, of_shots) in enumerate(_by_shots(rows).items()):
            mean = np.mean([row["losses"] for row in of_shots], axis=0).tolist()
            epochs = list(range(1, len(mean) + 1))
            lines.append(_of_shots(number, shots, epochs, mean, [len(mean) - 1]))
        if lines:
            alt = "Training loss against epochs, a line for each number of shots, mean over seeds."
            figure = draw(f"{name}-{method}", "Training loss", "epoch", alt, lines)
            found.append((summary.label(method), figure))
    return found


def attention(name: str, by_shots: dict[int, dict[str, list[float]]]) -> Figure:
    """The share of attention on the object, of both pools, against shots."""
    lines = []
    for share, look in (
        ("original", {"ink": "text", "marker": "s"}),
        ("tuned", {"ink": SERIES[0], "marker": "o"}),
        ("even", {"ink": "muted", "dashed": True}),
    ):
        values = {k: shares[share] for k, shares in by_shots.items()}
        if any(values.values()):
            lines.append(_with_error_bars(summary.ATTENTION[share], values, **look))
    alt = "Share of attention on the object against shots; the table has the numbers."
    return draw(name, "Attention on the object (%)", _IMAGES, alt, lines, shots=True)


def _by_shots(rows):
    shots = sorted({row["shots"] for row in rows})
    rows = sorted(rows, key=lambda row: row["seed"])
    return {k: [row for row in rows if row["shots"] == k] for k in shots}


def _of_shots(number, shots, x, y, marked):
    ink, marker = SHOTS[number % len(SHOTS)], _GLYPHS[number % len(_GLYPHS)]
    return Line(summary.plural(shots, "shot"), x, y, ink=ink, marker=marker, marked=marked)
