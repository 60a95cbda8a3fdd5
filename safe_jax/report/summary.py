"""Means over seeds, and the table of them."""

import statistics

import scipy.stats

from safe_jax.report import published

_LABELS = {
    "zero_shot": "zero-shot",
    "safe": "SAFE",
    "safe_a": "SAFE-A",
    "safe_a_f": "SAFE-A (keys tuned)",
    "tip_adapter": "Tip-Adapter",
    "tip_adapter_f": "Tip-Adapter-F",
    "clip_adapter": "CLIP-Adapter",
    "prolip": "ProLIP",
    "linear_probe": "linear probe",
    "partial": "pool + linear head",
}
_CHOSEN = {
    "alpha": "alpha",
    "a": "a",
    "b": "b",
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
}
_PROTOCOLS = {"tip_adapter": "Tip-Adapter's protocol: the full validation set, one seed"}
ATTENTION = {"original": "original pool", "tuned": "tuned pool", "even": "even on all cells"}


def label(method: str) -> str:
    return _LABELS.get(method, method)


def methods(rows: list[dict]) -> list[str]:
    """Those in the rows: zero-shot, SAFE, its peers, then others as they come."""
    found = dict.fromkeys(row["method"] for row in rows)
    return sorted(found, key=lambda method: [*_LABELS, method].index(method))


def of(rows: list[dict], method: str, shots: int) -> list[dict]:
    """The rows of one cell of the table, one a seed."""
    return [row for row in rows if (row["method"], row["shots"]) == (method, shots)]


def mean_sd(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation, which a single value does not have."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def half_interval(values: list[float]) -> float:
    """Half the 95% interval of the mean of at least two values, by Student's t."""
    return scipy.stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5


def cell(values: list[float] | None, interval: bool = True) -> str:
    """Mean ± standard deviation, and half the 95% interval of the mean in brackets."""
    if not values:
        return "-"
    if len(set(values)) == 1:  # zero-shot, or a single seed
        return f"{values[0]:.2f}"
    text = "{:.2f} ± {:.2f}".format(*mean_sd(values))
    return f"{text} ({half_interval(values):.2f})" if interval else text


def protocol(rows: list[dict]) -> str | None:
    """What is to be said of another protocol than ours."""
    return _PROTOCOLS.get(rows[0].get("protocol"))


def tables(rows: list[dict]) -> str:
    """A table for each data set, and one of their mean."""
    by_dataset = {}
    for row in rows:
        by_dataset.setdefault(row["dataset"], []).append(row)
    own_first = sorted(by_dataset.values(), key=lambda rows: "tuned_on" in rows[0])
    own = [rows for rows in own_first if "tuned_on" not in rows[0]]
    return "\n\n".join(map(table, own_first + ([_mean(own)] if len(own) > 1 else [])))


def _mean(by_dataset):
    """Rows of the mean over data sets, for each method, shots and seed that all of them have."""
    cells = [{(r["method"], r["shots"], r["seed"]): r for r in rows} for rows in by_dataset]
    common = {"dataset": f"mean of {len(cells)} data sets"}
    return [
        cells[0][key]
        | common
        | {"accuracy": statistics.mean(each[key]["accuracy"] for each in cells)}
        for key in cells[0]
        if all(key in each for each in cells)
    ]


def table(rows: list[dict]) -> str:
    """Accuracy by method and shots: mean, sample standard deviation and 95% interval over seeds.

    Names what was measured and how alpha (of caches a and b too, and rate and decay where there
    were several) was chosen, for a number without them says nothing.
    """
    shots = sorted({row["shots"] for row in rows})
    seeds = sorted({row["seed"] for row in rows})
    chosen = sorted({row["selection"] for row in rows} - {"none"})
    what = [text for name, text in _CHOSEN.items() if any(_is_chosen(row, name) for row in rows)]
    first = rows[0]
    looks = attention_on_object(rows)
    theirs = published.by_method(first["dataset"]) if first["split"] == "test" else {}
    labels = [*map(label, methods(rows)), *(ATTENTION.values() if looks else ())]
    labels += [f"{method}, published" for method in theirs]
    width = max(12, *(len(text) + 2 for text in labels))
    of_what = first["dataset"]
    if "tuned_on" in first:
        of_what += f" (tuned on {first['tuned_on']})"
    lines = [
        f"{of_what}, {first['weights']}: {first['split']} accuracy (%), {_over(seeds)}"
        + (f"; {', '.join(what)} by {', '.join(chosen)}" if chosen else "")
        + (f"; {protocol(rows)}" if protocol(rows) else ""),
        f"{'shots':<{width}}" + "".join(f"{k:>21}" for k in shots),
    ]

    def line(text, by_shots, interval=True):
        cells = (cell(by_shots.get(k), interval) for k in shots)
        return f"{text:<{width}}" + "".join(f"{text:>21}" for text in cells)

    for method in methods(rows):
        accuracies = {k: [row["accuracy"] for row in of(rows, method, k)] for k in shots}
        lines.append(line(label(method), accuracies))
    for method, found in theirs.items():
        lines.append(line(f"{method}, published", {k: [found[k]] for k in found}))
    if theirs:
        lines.append(f"(published: {published.WEIGHTS}; {published.METHOD}: {published.PROTOCOL})")
    for method, by_shots in looks.items():
        lines.append(f"attention on the object (%), {label(method)}")
        for name, text in ATTENTION.items():
            if any(shares[name] for shares in by_shots.values()):
                by_k = {k: shares[name] for k, shares in by_shots.items()}
                lines.append(line(text, by_k, interval=False))
    return "\n".join(lines)


def _is_chosen(row, name):
    if name in ("alpha", "a", "b"):
        return row.get(name) is not None
    return len({told[name] for told in row.get("candidates", ())}) > 1


def _over(seeds):
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    named = ", ".join(map(str, seeds))
    return f"mean ± standard deviation (half the 95% interval of the mean) over seeds {named}"


def attention_on_object(rows: list[dict]) -> dict[str, dict[int, dict[str, list[float]]]]:
    """By method and shots, the share (%) of each seed: of `original`, `tuned`, maybe of `even`.

    `even` is what the same attention on every cell would give.
    """
    found = {}
    for row in sorted(rows, key=lambda row: row["shots"]):
        if shares := row.get("attention_on_object"):
            cells = found.setdefault(row["method"], {}).setdefault(row["shots"], {})
            for name in ATTENTION:
                cells.setdefault(name, []).extend([shares[name]] if name in shares else [])
    return found


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count != 1)
