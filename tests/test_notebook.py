"""The notebook, run as it is written."""

import json

import pytest

from safe_jax.data import digits
from tests.commands import ROOT


@pytest.mark.usefixtures("one_device")
def test_the_notebook_runs(digits_root, tmp_path, monkeypatch, capsys):
    (tmp_path / "quickstart").mkdir()
    drawn = digits_root / digits.FOLDER  # it takes some seconds to draw them
    (tmp_path / "quickstart" / digits.FOLDER).symlink_to(drawn)
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    exec(compile(code, "quickstart.ipynb", "exec"), {"__name__": "__main__"})
    out, _ = capsys.readouterr()
    (accuracy,) = [line for line in out.splitlines() if line.startswith("accuracy: ")]
    assert float(accuracy.removeprefix("accuracy: ")) > 0.25  # zero-shot is right on 0.21
