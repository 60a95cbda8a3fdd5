"""The notebook, run as it is written."""

import json
import subprocess
import sys

from safe_jax.data import digits
from tests.commands import ROOT


def test_the_notebook_runs(digits_root, tmp_path):
    (tmp_path / "quickstart").mkdir()
    drawn = digits_root / digits.FOLDER  # it takes some seconds to draw them
    (tmp_path / "quickstart" / digits.FOLDER).symlink_to(drawn)
    cells = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (accuracy,) = [line for line in done.stdout.splitlines() if line.startswith("accuracy: ")]
    assert float(accuracy.removeprefix("accuracy: ")) > 0.25  # zero-shot is right on 0.21
