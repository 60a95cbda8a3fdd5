"""Means over seeds, and the tables for the terminal."""

import statistics
from collections.abc import Sequence
from typing import Any

from safe_jax.experiment.results import Row
from safe_jax.methods.catalogue import METHODS
from safe_jax.report import published
from safe_jax.runtime.errors import counted

# Fields of a row that selection may have chosen.
_CHOSEN = {
    "alpha": "alpha",
    "a": "a",
    "b": "b",
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
}
_PROTOCOLS = {
    "tip_adapter": "Tip-Adapter's protocol: the full validation set, one seed",
    "base_to_new": "base to new: tuned and chosen on the first half of the classes (base); the "
    "others are new; each half is evaluated by itself; H is the harmonic mean of the two",
}
ATTENTION = {"original": "original pool", "tuned": "tuned pool", "even": "even on all cells"}
HALVES = {"accuracy": "base", "new_accuracy": "new", "harmonic_mean": "H"}  # fields of a row

TableRow = tuple[str, list[str]]  # a label, and a cell for each number of shots
Shares = dict[str, list[float]]  # by a key of ATTENTION, per cent of each seed


def label(method: str) -> str:
    return METHODS[method].label if method in METHODS else method


def methods(rows: Sequence[Row]) -> list[str]:
    """The methods of the rows: in the catalogue's order, then others as they come."""
    found = dict.fromkeys(row.method for row in rows)
    return sorted(found, key=lambda method: [*METHODS, method].index(method))


def cell_rows(rows: Sequence[Row], method: str, shots: int) -> list[Row]:
    """The rows of a cell of the table: one for each seed."""
    return [row for row in rows if (row.method, row.shots) == (method, shots)]


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and sample standard deviation of at least two values."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def half_interval(values: Sequence[float]) -> float:
    """Half the 95% interval of the mean of at least two values, by Student's t."""
    import scipy.special  # takes a tenth of a second to import; scipy.stats takes half a second

    quantile = scipy.special.stdtrit(len(values) - 1, 0.975)
    return quantile * statistics.stdev(values) / len(values) ** 0.5


def cell(values: Sequence[float], interval: bool = True) -> str:
    """Mean ± standard deviation, and half the 95% interval of the mean in brackets."""
    if not values:
        return "-"
    if len(set(values)) == 1:  # zero-shot, or a single seed
        return f"{values[0]:.2f}"
    text = "{:.2f} ± {:.2f}".format(*mean_sd(values))
    return f"{text} ({half_interval(values):.2f})" if interval else text


def protocol_note(rows: Sequence[Row]) -> str | None:
    """Names the protocol, where it is not ours."""
    return _PROTOCOLS.get(rows[0].protocol or "")


def published_rows(row: Row, shots: Sequence[int]) -> list[TableRow]:
    """Published accuracy with the weights and on the images that `row` was evaluated with."""
    return [
        (f"{label(method)}, published", [cell([by_k[k]] if k in by_k else []) for k in shots])
        for method, by_k in published.accuracy(row).items()
    ]


def base_to_new(rows: Sequence[Row], shots: int) -> list[TableRow]:
    """A row for each method with a cell for each of `HALVES`; "-" where it has no answer."""
    found = []
    for method in methods(rows):
        if of_seeds := cell_rows(rows, method, shots):
            values = [[getattr(row, field) for row in of_seeds] for field in HALVES]
            cells = [cell([x for x in of_field if x is not None]) for of_field in values]
            found.append((label(method), cells))
    return found


def closed_notes(rows: Sequence[Row]) -> list[str]:
    """Which methods have no answer for classes that were not tuned on, and why."""
    by_reason: dict[str, list[Row]] = {}
    for row in rows:
        if row.closed_set:
            by_reason.setdefault(row.closed_set, []).append(row)
    return [
        f"{', '.join(map(label, methods(closed)))}: {reason}"
        for reason, closed in by_reason.items()
    ]


def without_answer(rows: Sequence[Row], transfer: Sequence[Row]) -> list[Row]:
    """The rows of methods that have none among those of a transfer, having no answer there."""
    return [
        row
        for row in rows
        if row.closed_set
        and row.config_hash == transfer[0].config_hash
        and row.method not in methods(transfer)
    ]


def chance(rows: Sequence[Row]) -> str | None:
    """Says that zero-shot is no better than chance, if so and if the rows tell."""
    return next((said for row in rows if (said := row.chance)), None)


def attention_shares(rows: Sequence[Row]) -> dict[str, dict[int, Shares]]:
    """Per cent of attention on the object, of each seed: by method, shots and key of ATTENTION."""
    found: dict[str, dict[int, Shares]] = {}
    for row in sorted(rows, key=lambda row: row.shots):
        if row.attention_on_object.keys() & ATTENTION.keys():
            by_shots = found.setdefault(row.method, {})
            shares = by_shots.setdefault(row.shots, {name: [] for name in ATTENTION})
            for name in shares.keys() & row.attention_on_object:
                shares[name].append(row.attention_on_object[name])
    return found


def tables(rows: Sequence[Row]) -> str:
    """A table for each data set, transfers last, and one of the mean over data sets."""
    by_dataset: dict[str, list[Row]] = {}
    for row in rows:
        by_dataset.setdefault(row.dataset, []).append(row)
    groups = list(by_dataset.values())
    tuned = [group for group in groups if not group[0].tuned_on]
    transfers = [group for group in groups if group[0].tuned_on]
    mean = [_mean_rows(tuned)] if len(tuned) > 1 else []
    texts = [table(group) for group in tuned]
    texts += [table(group, without_answer(rows, group)) for group in transfers]
    return "\n\n".join([*texts, *(table(group) for group in mean if group)])


def _mean_rows(by_dataset: list[list[Row]]) -> list[Row]:
    """The mean over data sets, for each method, shots and seed that all of them have."""
    by_key = [{(row.method, row.shots, row.seed): row for row in rows} for rows in by_dataset]
    name = f"mean of {len(by_dataset)} data sets"
    mean_rows = []
    for key, row in by_key[0].items():
        same = [rows[key] for rows in by_key if key in rows]
        if len(same) == len(by_key):
            accuracy = statistics.mean(row.accuracy for row in same)
            mean: dict[str, Any] = {"dataset": name, "accuracy": accuracy}
            new = [row.new_accuracy for row in same if row.new_accuracy is not None]
            if len(new) == len(same):  # H is of the means, as in CoCoOp's table
                mean["new_accuracy"] = statistics.mean(new)
                mean["harmonic_mean"] = statistics.harmonic_mean([accuracy, mean["new_accuracy"]])
            mean_rows.append(row.model_copy(update=mean))
    return mean_rows


def table(rows: Sequence[Row], absent: Sequence[Row] = ()) -> str:
    """Accuracy by method and shots: mean, sample standard deviation and 95% interval over seeds.

    The heading says what was measured and how free choices (alpha, a cache's a and b, learning rate
    and weight decay) were made: a number means nothing without that. Methods of `absent` have no
    answer there, and say so.
    """
    shots = sorted({row.shots for row in rows})
    lines: list[TableRow] = [("shots", list(map(str, shots)))]
    for method in methods([*rows, *absent]):
        cells = [cell([row.accuracy for row in cell_rows(rows, method, k)]) for k in shots]
        lines.append((label(method), cells))
    if rows[0].is_base_to_new:
        lines = []
        for k in shots:
            lines += [(counted(k, "shot"), list(HALVES.values())), *base_to_new(rows, k)]
    lines += [(f"({note})", []) for note in closed_notes([*rows, *absent])]
    if figures := published_rows(rows[0], shots):
        note = f"published: {published.WEIGHTS}"
        if not rows[0].tuned_on:
            note += f"; {label(published.METHOD)}: {published.PROTOCOL}"
        lines += [*figures, (f"({note})", [])]
    if said := chance(rows):
        lines.append((f"({said})", []))
    for method, by_shots in attention_shares(rows).items():
        lines.append((f"attention on the object (%), {label(method)}", []))
        for name, text in ATTENTION.items():
            values = [by_shots[k][name] if k in by_shots else [] for k in shots]
            if any(values):
                lines.append((text, [cell(of_seeds, interval=False) for of_seeds in values]))
    width = max(12, *(len(text) + 2 for text, cells in lines if cells))
    return "\n".join([_heading(rows), *(_aligned(width, *line) for line in lines)])


def _aligned(width: int, text: str, cells: list[str]) -> str:
    return f"{text:<{width}}" + "".join(f"{x:>21}" for x in cells) if cells else text


def _heading(rows: Sequence[Row]) -> str:
    first = rows[0]
    dataset = f"{first.dataset} (tuned on {first.tuned_on})" if first.tuned_on else first.dataset
    seeds = sorted({row.seed for row in rows})
    parts = [f"{dataset}, {first.weights}: {first.split} accuracy (%), {_over_seeds(seeds)}"]
    if selections := sorted({row.selection for row in rows} - {"none"}):
        chosen = [text for name, text in _CHOSEN.items() if any(_is_chosen(r, name) for r in rows)]
        chosen += sorted({axis for row in rows for axis in row.point})
        parts.append(f"{', '.join(chosen)} by {', '.join(selections)}")
    if note := protocol_note(rows):
        parts.append(note)
    return "; ".join(parts)


def _is_chosen(row: Row, name: str) -> bool:
    if name in ("alpha", "a", "b"):
        return getattr(row, name) is not None
    return len({getattr(candidate, name) for candidate in row.candidates}) > 1


def _over_seeds(seeds: list[int]) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    listed = ", ".join(map(str, seeds))
    return f"mean ± standard deviation (half the 95% interval of the mean) over seeds {listed}"
