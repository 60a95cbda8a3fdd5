"""The table and the page of a run, made from its rows and the files beside them, and the page of a
classifier's evaluation (`evaluation.render`): no model, no data set, no network.

python -m safe_jax.report DIR [DIR ...] [--output FILE]
"""

from collections.abc import Sequence

from safe_jax.report.summary import table, tables
from safe_jax.runtime import paths
from safe_jax.runtime.paths import Path


def write(directories: Sequence[Path], output: Path) -> None:
    """Writes the page of every experiment in `directories`, whole or not at all.

    Raises `InputError` for a directory without a run.
    """
    from safe_jax.report import page, runs  # loads Matplotlib, which a table does without

    paths.write(output, page.render(runs.load(directories)).encode())


__all__ = ["table", "tables", "write"]
