"""The section of an experiment on the page: every text and number as the template shows it."""

import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from safe_jax.experiment.results import Row
from safe_jax.methods.catalogue import METHODS
from safe_jax.report import charts, summary
from safe_jax.report.charts import AlphaChoice
from safe_jax.report.gallery import Gallery
from safe_jax.report.plots import Figure, Panels
from safe_jax.report.runs import Experiment
from safe_jax.report.summary import TableRow
from safe_jax.runtime.errors import counted

_SELECTIONS = {
    "few_shot_val": "chosen on min(shots, 4) validation images a class",
    "full_val": "chosen on all validation images",
    "fixed": "fixed beforehand",
}

# A label, and for each number of shots a cell and how many seeds it has, if not all.
AccuracyRow = tuple[str, list[tuple[str, str | None]]]


class Headline(NamedTuple):
    """Accuracy of one method and of zero-shot; `gain` is in points."""

    method: str
    shots: str
    seeds: int
    tuned: str
    zero_shot: str | None
    gain: float | None


class AttentionOnObject(NamedTuple):
    """The share of a method's attention on the object: a row for each number of shots."""

    label: str
    figure: Figure
    rows: list[TableRow]


class Section(NamedTuple):
    """Everything that is shown of an experiment."""

    name: str
    is_open: bool
    experiment: Experiment
    labels: list[str]  # of its methods
    selection: list[str]
    chance: str | None
    headline: Headline | None
    accuracy: Figure
    accuracy_rows: list[AccuracyRow]
    base_to_new: list[tuple[str, list[TableRow]]]  # by shots
    notes: list[str]
    published: list[TableRow]
    alpha: list[AlphaChoice]
    rates: list[TableRow]
    losses: Panels | None
    attention: list[AttentionOnObject]
    gallery: Gallery | None
    seconds: list[TableRow]
    shared_seconds: list[tuple[str, list[str]]]  # a method, and those whose seconds it has, too
    knobs: dict[str, str] | None

    @classmethod
    def of(cls, name: str, experiment: Experiment, is_open: bool) -> "Section":
        rows, config = experiment.rows, experiment.config
        note = summary.protocol_note(rows)
        return cls(
            name=name,
            is_open=is_open,
            experiment=experiment,
            labels=[summary.label(method) for method in experiment.methods],
            selection=[_SELECTIONS.get(s, f"by {s}") for s in experiment.selections]
            + ([note] if note else []),
            chance=summary.chance(rows),
            headline=_headline(experiment),
            accuracy=charts.accuracy(f"{name}-accuracy", [experiment]),
            accuracy_rows=accuracy_rows(experiment, experiment.shots),
            base_to_new=[
                (counted(shots, "shot"), summary.base_to_new(rows, shots))
                for shots in experiment.shots
                if rows[0].is_base_to_new
            ],
            notes=summary.closed_notes([*rows, *experiment.absent]),
            published=summary.published_rows(rows[0], experiment.shots),
            alpha=charts.alpha(f"{name}-alpha", experiment),
            rates=_rates(experiment),
            losses=charts.losses(f"{name}-losses", experiment),
            attention=_attention(f"{name}-attention", rows),
            gallery=Gallery.of(experiment.directory, rows),
            seconds=_table(experiment, experiment.methods, _mean_seconds),
            shared_seconds=_shared_seconds(experiment.methods),
            knobs=None if config is None else {k: _plain(v) for k, v in config.items()},
        )


def _headline(experiment: Experiment) -> Headline | None:
    """Of SAFE, or of the first method if SAFE is not there: the best is not picked."""
    tuned = [method for method in experiment.methods if method != "zero_shot"]
    if not tuned:
        return None
    shots = max(row.shots for row in experiment.rows if row.method == tuned[0])
    values = experiment.accuracies(tuned[0], shots)
    zero_shot = experiment.accuracies("zero_shot", shots)
    return Headline(
        method=summary.label(tuned[0]),
        shots=counted(shots, "shot"),
        seeds=len(values),
        tuned=summary.cell(values, interval=False),
        zero_shot=summary.cell(zero_shot) if zero_shot else None,
        gain=statistics.mean(values) - statistics.mean(zero_shot) if zero_shot else None,
    )


def accuracy_rows(experiment: Experiment, shots: Sequence[int]) -> list[AccuracyRow]:
    rows = []
    for method in summary.methods([*experiment.rows, *experiment.absent]):
        cells = []
        for k in shots:
            values = experiment.accuracies(method, k)
            some = 0 < len(values) < len(experiment.seeds)
            cells.append((summary.cell(values), counted(len(values), "seed") * some or None))
        rows.append((summary.label(method), cells))
    return rows


def _table(
    experiment: Experiment, methods: Sequence[str], cell: Callable[[list[Row]], str]
) -> list[TableRow]:
    """Rows of methods; a cell is made from its rows, one for each seed."""
    return [
        (
            summary.label(method),
            [cell(experiment.cell_rows(method, shots)) for shots in experiment.shots],
        )
        for method in methods
    ]


def _mean_seconds(rows: list[Row]) -> str:
    return f"{statistics.mean(row.seconds for row in rows):.2f}" if rows else "-"


def _shared_seconds(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    needed = {name: METHODS[name].after for name in names if name in METHODS}
    return [
        (summary.label(name), [summary.label(earlier) for earlier in after])
        for name, after in needed.items()
        if after
    ]


def _rates(experiment: Experiment) -> list[TableRow]:
    """Learning rate and weight decay of every seed, of the methods for which they were chosen."""
    chosen = {row.method for row in experiment.rows if row.candidates}
    methods = [method for method in experiment.methods if method in chosen]
    return _table(
        experiment,
        methods,
        lambda rows: ", ".join(
            f"{row.learning_rate:g}/{row.weight_decay:g}" for row in rows if row.candidates
        ),
    )


def _attention(name: str, rows: Sequence[Row]) -> list[AttentionOnObject]:
    return [
        AttentionOnObject(
            summary.label(method),
            charts.attention(f"{name}-{method}", by_shots),
            [
                (str(k), [summary.cell(shares[name], False) for name in summary.ATTENTION])
                for k, shares in by_shots.items()
            ],
        )
        for method, by_shots in summary.attention_shares(rows).items()
    ]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
