"""The page: what the template is given, and where it is written."""

import json
import pathlib
import statistics

import jinja2

from safe_jax.report import charts, gallery, published, runs, summary
from safe_jax.report.runs import Experiment
from safe_jax.runtime import paths

_SELECTIONS = {
    "few_shot_val": "chosen on min(shots, 4) validation images a class",
    "full_val": "chosen on all validation images",
    "fixed": "fixed beforehand",
}
_SPLITS = {"test": "test images", "val": "validation images that chose no alpha"}


def write(directories: list, output) -> None:
    """Makes the page of every experiment in `directories`, whole or not at all.

    Raises `InputError` for what is no directory of a run.
    """
    paths.write(output, render(runs.load(directories)).encode())


def render(found: list[Experiment]) -> str:
    """The page, which is the same bytes for the same rows, pictures and configs."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["listed"] = _listed
    by_images = {}  # what was evaluated on others is not compared
    for experiment in found:
        by_images.setdefault((experiment.dataset, experiment.split), []).append(experiment)
    lone = len(found) == 1
    first = found[0]
    return environment.get_template("page.html.jinja").render(
        title=f"{first.dataset}, {first.weights.partition('@')[0]}"
        if lone
        else f"Comparison of {len(found)} experiments",
        lone=lone,
        groups=[_group(f"g{number}", same) for number, same in enumerate(by_images.values())],
        published=published,
        splits=_SPLITS,
    )


def _listed(values):
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last


def _group(name, found):
    """Experiments that were evaluated on the same images, and so may stand in one figure."""
    sections = [_section(f"{name}-{number}", one) for number, one in enumerate(found)]
    # The newest of a single directory is the one that somebody waits for.
    sections[0]["open"] = len({experiment.directory for experiment in found}) == 1
    group = {"dataset": found[0].dataset, "split": found[0].split, "sections": sections}
    if len(found) == 1:
        return group
    shots = sorted({k for experiment in found for k in experiment.shots})
    return group | {
        "accuracy": charts.accuracy(f"{name}-accuracy", found),
        "names": [experiment.name for experiment in found],
        "shots": shots,
        "rows": [(experiment.name, _accuracy_rows(experiment, shots)) for experiment in found],
        "published": _published_rows(found[0], shots),
        "released": charts.released(found),
        "differing": _differing(found, [section["knobs"] for section in sections]),
    }


def _section(name, experiment):
    """All that is shown of one experiment."""
    attention = summary.attention_on_object(experiment.rows)
    return {
        "name": name,
        "open": False,
        "of": experiment,
        "labels": [summary.label(method) for method in experiment.methods],
        "protocol": _protocol(experiment),
        "headline": _headline(experiment),
        "accuracy": charts.accuracy(f"{name}-accuracy", [experiment]),
        "rows": _accuracy_rows(experiment, experiment.shots),
        "published": _published_rows(experiment, experiment.shots),
        "released": charts.released([experiment]),
        "alpha": charts.alpha(f"{name}-alpha", experiment),
        "rates": _rates_rows(experiment),
        "losses": charts.losses(f"{name}-losses", experiment),
        "attention_columns": summary.ATTENTION.values(),
        "attention": [
            {
                "label": summary.label(method),
                "figure": charts.attention(f"{name}-attention-{method}", by_shots),
                "rows": [
                    (k, [summary.cell(shares[name], False) for name in summary.ATTENTION])
                    for k, shares in by_shots.items()
                ],
            }
            for method, by_shots in attention.items()
        ],
        "gallery": gallery.Gallery.of(experiment.directory, experiment.rows),
        "seconds": _seconds_rows(experiment),
        "total": f"{sum(row['seconds'] for row in experiment.rows):.1f}",
        "knobs": experiment.config and {k: _plain(v) for k, v in experiment.config.items()},
    }


def _protocol(experiment):
    told = [_SELECTIONS.get(s, f"by {s}") for s in experiment.selections]
    named = summary.protocol(experiment.rows)
    return told + [named] * bool(named)


def _headline(experiment):
    """Zero-shot, and SAFE (or the first method there is) with most shots: no pick of the best."""
    tuned = [method for method in experiment.methods if method != "zero_shot"]
    if not tuned:
        return None
    values = {k: experiment.accuracies(tuned[0], k) for k in experiment.shots}
    shots = max(k for k, of_seeds in values.items() if of_seeds)
    zero_shot = experiment.accuracies("zero_shot", shots)
    return {
        "method": summary.label(tuned[0]),
        "shots": summary.plural(shots, "shot"),
        "seeds": len(values[shots]),
        "tuned": summary.cell(values[shots], interval=False),
        "zero_shot": zero_shot and summary.cell(zero_shot),
        "gain": zero_shot and statistics.mean(values[shots]) - statistics.mean(zero_shot),
    }


def _accuracy_rows(experiment, shots):
    """A label, and for each number of shots the cell and how many seeds it has if not all."""
    rows = []
    for method in experiment.methods:
        cells = []
        for k in shots:
            values = experiment.accuracies(method, k)
            some = 0 < len(values) < len(experiment.seeds)
            cells.append((summary.cell(values), some and summary.plural(len(values), "seed")))
        rows.append((summary.label(method), cells))
    return rows


def _published_rows(experiment, shots):
    if not charts.is_published(experiment):
        return []
    return [
        (method, [summary.cell([found[k]] if k in found else []) for k in shots])
        for method, found in published.by_method(experiment.dataset).items()
    ]


def _seconds_rows(experiment):
    """A label, and mean seconds for each number of shots."""
    rows = []
    for method in experiment.methods:
        found = [summary.of(experiment.rows, method, k) for k in experiment.shots]
        seconds = [[row["seconds"] for row in of_seeds] for of_seeds in found]
        means = [f"{statistics.mean(values):.2f}" if values else "-" for values in seconds]
        rows.append((summary.label(method), means))
    return rows


def _rates_rows(experiment):
    """A label, and for each number of shots the rate and decay of every seed, where chosen."""
    rows = []
    for method in experiment.methods:
        found = [summary.of(experiment.rows, method, k) for k in experiment.shots]
        if any("candidates" in row for of_seeds in found for row in of_seeds):
            texts = [
                ", ".join(f"{row['learning_rate']:g}/{row['weight_decay']:g}" for row in of_seeds)
                for of_seeds in found
            ]
            rows.append((summary.label(method), texts))
    return rows


def _plain(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _differing(found, knobs):
    """The weights and knobs that are not the same in all, with a value for each experiment."""
    kept = [config for config in knobs if config is not None]
    rows = [("weights, by digest", [experiment.weights for experiment in found])]
    rows += [
        (knob, ["not kept" if config is None else config.get(knob, "none") for config in knobs])
        for knob in dict.fromkeys(knob for config in kept for knob in config)
        if len({config.get(knob) for config in kept}) > 1
    ]
    return [(what, values) for what, values in rows if len(set(values)) > 1]
