"""The page of several experiments, side by side where they may be compared."""

from collections.abc import Sequence
from typing import NamedTuple

from safe_jax.report import charts, published, summary, templates
from safe_jax.report.plots import Figure
from safe_jax.report.runs import Experiment
from safe_jax.report.sections import AccuracyRow, Section, accuracy_rows
from safe_jax.report.summary import TableRow

_SPLITS = {"test": "test images", "val": "validation images that chose no alpha"}


class Comparison(NamedTuple):
    """Several experiments side by side."""

    accuracy: Figure
    names: list[str]
    shots: list[int]
    accuracy_rows: list[tuple[str, list[AccuracyRow]]]  # by the experiment's name
    published: list[TableRow]
    differences: list[TableRow]  # a knob, and its value in each experiment


class Group(NamedTuple):
    """Experiments that were evaluated on the same images, and so may be compared."""

    dataset: str
    images: str
    sections: list[Section]
    comparison: Comparison | None


def render(experiments: Sequence[Experiment]) -> str:
    """The page: the same bytes for the same rows, pictures and configs."""
    by_images: dict[tuple, list[Experiment]] = {}
    for experiment in experiments:
        of = experiment.first
        by_images.setdefault((of.dataset, of.split, of.is_base_to_new), []).append(experiment)
    first, is_lone = experiments[0].first, len(experiments) == 1
    return templates.render(
        "page",
        title=f"{first.dataset}, {first.weights.partition('@')[0]}"
        if is_lone
        else f"Comparison of {len(experiments)} experiments",
        is_lone=is_lone,
        groups=[_group(f"g{number}", same) for number, same in enumerate(by_images.values())],
        published=published,
        published_method=summary.label(published.METHOD),
        zero_shot=summary.label("zero_shot"),
        attention_columns=list(summary.ATTENTION.values()),
        halves=list(summary.HALVES.values()),
    )


def _group(name: str, experiments: Sequence[Experiment]) -> Group:
    # Open the newest experiment when all are of one directory.
    opens_first = len({experiment.directory for experiment in experiments}) == 1
    sections = [
        Section.of(f"{name}-{number}", experiment, is_open=opens_first and number == 0)
        for number, experiment in enumerate(experiments)
    ]
    first = experiments[0].first
    return Group(
        dataset=first.dataset,
        images=_SPLITS.get(first.split, f"{first.split} images")
        + (" of the base classes" if first.is_base_to_new else ""),
        sections=sections,
        comparison=_comparison(name, sections) if len(sections) > 1 else None,
    )


def _comparison(name: str, sections: Sequence[Section]) -> Comparison:
    experiments = [section.experiment for section in sections]
    shots = sorted({k for experiment in experiments for k in experiment.shots})
    first = experiments[0].first
    of_all = all(published.accuracy(experiment.first) for experiment in experiments)
    return Comparison(
        accuracy=charts.accuracy(f"{name}-accuracy", experiments),
        names=[experiment.name for experiment in experiments],
        shots=shots,
        accuracy_rows=[(e.name, accuracy_rows(e, shots)) for e in experiments],
        published=summary.published_rows(first, shots) if of_all else [],
        differences=_differences(sections),
    )


def _differences(sections: Sequence[Section]) -> list[TableRow]:
    """The weights and knobs that differ, with a value for each experiment."""
    kept = [section.knobs for section in sections if section.knobs is not None]
    rows = [("weights, by digest", [section.experiment.first.weights for section in sections])]
    for knob in dict.fromkeys(knob for knobs in kept for knob in knobs):
        if len({knobs.get(knob) for knobs in kept}) > 1:
            values = [
                "not kept" if section.knobs is None else section.knobs.get(knob, "none")
                for section in sections
            ]
            rows.append((knob, values))
    return [(label, values) for label, values in rows if len(set(values)) > 1]
