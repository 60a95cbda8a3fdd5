"""`python -m safe_jax.report`: what it writes and how it tells mistakes."""

import json
import subprocess
import sys

import pytest

from safe_jax.experiment.results import read
from safe_jax.report import __main__ as command
from safe_jax.runtime.errors import InputError
from tests.fake_run import put, rows


def test_the_command_writes_where_it_says(tmp_path, monkeypatch, capsys):
    first, second = put(tmp_path / "first", rows()), put(tmp_path / "second", rows())
    monkeypatch.chdir(tmp_path)
    for arguments, written in (
        (["first"], "first/report.html"),
        (["first", "second"], "comparison.html"),
        ([str(first), str(second), "--output", "both.html"], "both.html"),
    ):
        assert command.main(arguments) == 0
        assert capsys.readouterr().out == f"report: {written}\n"
        assert (tmp_path / written).read_text().startswith("<!doctype html>")
    assert not list(tmp_path.rglob("*.partial"))


def test_the_page_is_made_without_jax(tmp_path):
    run = put(tmp_path / "run", rows(seeds=(1,)))
    script = (
        "import sys; from safe_jax.report import __main__; __main__.main(sys.argv[1:])\n"
        "print([m for m in ('jax', 'flax', 'torch', 'matplotlib.pyplot') if m in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, str(run)], capture_output=True, text=True, check=True
    )
    assert process.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "holds no results.jsonl: name the --workdir of a run"),
        ("", "holds no row"),
        ('{"method": "sa', "holds no row"),  # the first, under way
        ("{}\n", "line 1: dataset, method, "),
        ("5\n", "line 1: a row of JSON is expected; mend or remove it"),
        (json.dumps(rows()[0]) + '\n{"a": \n', "line 2: a row of JSON is expected"),
        (json.dumps(rows()[0] | {"shots": "2"}) + "\n", "line 1: shots missing or of another type"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, capsys, text, said):
    if text is not None:
        (tmp_path / "results.jsonl").write_text(text)
    assert command.main([str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_other_mistakes_are_told_as_well(tmp_path, capsys):
    run = put(tmp_path / "run", rows(seeds=(1,)), {"c0ffee": {}})
    assert command.main([str(tmp_path / "absent")]) == 1
    assert "absent: no such directory; name the --workdir of a run" in capsys.readouterr().err
    assert command.main([str(run), "--output", str(tmp_path / "absent" / "page.html")]) == 1
    assert "No such file or directory" in capsys.readouterr().err
    (run / "configs" / "c0ffee.json").write_text("[")
    assert command.main([str(run)]) == 1
    assert "c0ffee.json: a JSON object is expected; mend or remove it" in capsys.readouterr().err


def test_an_unfinished_row_is_not_read(tmp_path):
    file = tmp_path / "results.jsonl"
    whole = json.dumps(rows()[0])
    file.write_text(f"{whole}\n{whole}")
    assert read(file) == [json.loads(whole)]
    with pytest.raises(InputError, match="no such directory"):
        read(tmp_path / "absent" / "results.jsonl")
