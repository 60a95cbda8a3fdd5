"""What stands in the directories that a report is made of."""

import dataclasses
import json
import pathlib

from etils import epath

from safe_jax.experiment import results
from safe_jax.report import summary
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The rows of one config hash and data set, which alone are fit for a mean over seeds."""

    name: str  # what tells it from the others of the page
    directory: pathlib.Path | epath.Path
    rows: list[dict]  # one for each method, shots and seed
    config: dict | None  # every knob; None where the run kept none
    dataset: str
    split: str
    weights: str
    config_hash: str

    @property
    def methods(self) -> list[str]:
        return summary.methods(self.rows)

    @property
    def shots(self) -> list[int]:
        return sorted({row["shots"] for row in self.rows})

    @property
    def seeds(self) -> list[int]:
        return sorted({row["seed"] for row in self.rows})

    @property
    def selections(self) -> list[str]:
        return sorted({row["selection"] for row in self.rows} - {"none"})

    def accuracies(self, method: str, shots: int) -> list[float]:
        return [row["accuracy"] for row in summary.of(self.rows, method, shots)]


def load(directories: list) -> list[Experiment]:
    """Every experiment in the directories as they are given, the newest of each first.

    Raises `InputError` for what is no directory of a run.
    """
    directories = list({paths.absolute(path): path for path in directories}.values())
    names = [paths.absolute(path).name for path in directories]
    if len(set(names)) < len(names):
        names = list(map(str, directories))
    found = []
    for name, directory in zip(names, directories, strict=True):
        by_hash = _by_hash(results.read(directory / "results.jsonl"))
        for (config_hash, dataset), rows in reversed(by_hash.items()):
            one = f"{name} {config_hash}" if len({h for h, _ in by_hash}) > 1 else name
            if "tuned_on" in rows[0]:
                one += f" on {dataset}"
            common = {field: rows[0][field] for field in ("split", "weights")}
            config = _config(directory, config_hash)
            found.append(
                Experiment(one, directory, rows, config, dataset, **common, config_hash=config_hash)
            )
    return found


def _by_hash(rows):
    """Rows by config hash and data set, what was written last at the end."""
    cells = {}
    for row in rows:
        experiment = row["config_hash"], row["dataset"]
        of_hash = cells.pop(experiment, {})
        # The same subset of images that changed since: the later row is what holds now.
        cell = row["method"], row["shots"], row["seed"]
        of_hash.pop(cell, None)  # to the end: rows stay in the order in which they were written
        of_hash[cell] = row
        cells[experiment] = of_hash
    return {experiment: _of_same_knobs(of_hash.values()) for experiment, of_hash in cells.items()}


def _of_same_knobs(rows):
    """Those whose method had the knobs that it has in its latest row."""
    latest = {row["method"]: row.get("knobs") for row in rows}
    return [row for row in rows if row.get("knobs") == latest[row["method"]]]


def _config(directory, config_hash):
    path = directory / "configs" / f"{config_hash}.json"
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError):
        raise InputError(f"{path}: a JSON object is expected; mend or remove it") from None
