"""The experiments in the directories that a page is made of."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from safe_jax.experiment import results
from safe_jax.experiment.results import Row
from safe_jax.report import summary
from safe_jax.runtime import paths, schema
from safe_jax.runtime.errors import InputError, counted
from safe_jax.runtime.paths import Path


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The rows of one config hash and data set: no others may be averaged over seeds."""

    name: str  # unique on the page
    directory: Path
    rows: list[Row]  # one for each method, shots and seed
    config: dict[str, Any] | None  # every knob; None if the run's file of them is missing
    absent: list[Row] = dataclasses.field(default_factory=list)  # of methods without an answer here

    @property
    def first(self) -> Row:
        """All rows have its data set, split, weights and config hash."""
        return self.rows[0]

    @property
    def methods(self) -> list[str]:
        return summary.methods(self.rows)

    @property
    def shots(self) -> list[int]:
        return sorted({row.shots for row in self.rows})

    @property
    def seeds(self) -> list[int]:
        return sorted({row.seed for row in self.rows})

    @property
    def selections(self) -> list[str]:
        return sorted({row.selection for row in self.rows} - {"none"})

    def cell_rows(self, method: str, shots: int) -> list[Row]:
        return summary.cell_rows(self.rows, method, shots)

    def accuracies(self, method: str, shots: int) -> list[float]:
        return [row.accuracy for row in self.cell_rows(method, shots)]


def load(directories: Sequence[Path]) -> list[Experiment]:
    """Every experiment, by directory in the order given; in a directory, the newest first.

    Raises `InputError` for a directory without a run.
    """
    directories = list({paths.absolute(path): path for path in directories}.values())
    names = [paths.absolute(path).name for path in directories]
    if len(set(names)) < len(names):
        names = list(map(str, directories))
    experiments = []
    for name, directory in zip(names, directories, strict=True):
        file = directory / "results.jsonl"
        groups = _by_experiment(results.read(file))
        _check_lengths(file, groups)
        every_row = [row for rows in groups for row in rows]
        several = len({rows[0].config_hash for rows in groups}) > 1
        for rows in reversed(groups):
            first = rows[0]
            full_name = f"{name} {first.config_hash}" if several else name
            full_name += f" on {first.dataset}" if first.tuned_on else ""
            config = _config(directory, first.config_hash)
            absent = summary.without_answer(every_row, rows) if first.tuned_on else []
            experiments.append(Experiment(full_name, directory, rows, config, absent))
    return experiments


def _by_experiment(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each experiment, the one that was written to last at the end."""
    experiments: dict[tuple, dict[tuple, Row]] = {}
    for row in rows:
        experiment = row.config_hash, row.dataset
        cells = experiments[experiment] = experiments.pop(experiment, {})
        # A later row replaces an earlier one of the same cell: the subset's files have changed.
        cell = row.method, row.shots, row.seed
        cells.pop(cell, None)  # to the end: rows stay in the order in which they were written
        cells[cell] = row
    return [_of_latest_knobs(list(cells.values())) for cells in experiments.values()]


def _of_latest_knobs(rows: list[Row]) -> list[Row]:
    """The rows whose method has the knobs of its latest row."""
    latest = {row.method: row.knobs for row in rows}
    return [row for row in rows if row.knobs == latest[row.method]]


def _check_lengths(file: Path, groups: Iterable[list[Row]]) -> None:
    """Raises `InputError` for rows over whose seeds no mean can be taken."""
    for rows in groups:
        cells: dict[tuple[str, int], list[Row]] = {}
        for row in rows:
            cells.setdefault((row.method, row.shots), []).append(row)
        for (method, shots), of_seeds in cells.items():
            lengths = {len(row.losses) for row in of_seeds if row.losses}
            grids = {tuple(row.curve["alpha"]) for row in of_seeds if "alpha" in row.curve}
            if len(lengths) > 1 or len(grids) > 1:
                what = "losses of other lengths" if len(lengths) > 1 else "curves at other alphas"
                raise InputError(
                    f"{file}: the seeds of {schema.shown(method)} with {counted(shots, 'shot')} "
                    f"have {what}: remove the lines that another config wrote"
                )


def _config(directory: Path, config_hash: str) -> dict[str, Any] | None:
    file = directory / "configs" / f"{config_hash}.json"
    try:
        return schema.read_json(dict[str, Any], file.read_bytes(), f"{file}: ")
    except FileNotFoundError:
        return None
    except InputError as error:
        raise InputError(f"{error}; mend or remove it") from None
