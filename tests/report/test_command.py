"""`python -m safe_jax.report`: the page it writes, and the line it prints for a mistake."""

import json
import subprocess
import sys

import pytest

from safe_jax.report import __main__ as command
from tests.fake_run import put, rows


def test_the_command_writes_the_file_that_it_names(tmp_path, monkeypatch, capsys):
    first, second = put(tmp_path / "first", rows()), put(tmp_path / "second", rows())
    monkeypatch.chdir(tmp_path)
    for arguments, written in (
        (["first"], "first/report.html"),
        (["first", "second"], "comparison.html"),
        ([str(first), str(second), "--output", "both.html"], "both.html"),
    ):
        assert command.main(arguments) == 0
        assert capsys.readouterr().out == f"report: {written}\n"
        page = (tmp_path / written).read_text()
        assert page.startswith("<!doctype html>")
        assert page.endswith("</html>")
    assert not list(tmp_path.rglob("*.partial"))


def loaded(script, *arguments):
    """The large libraries that a script has loaded at its end."""
    names = ("jax", "flax", "torch", "matplotlib", "matplotlib.pyplot", "scipy.special")
    script += f"\nimport sys; print([name for name in {names} if name in sys.modules])"
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    return process.stdout.splitlines()[-1]


def test_the_page_is_made_without_jax(tmp_path):
    run = put(tmp_path / "run", rows(seeds=(1,)))
    script = "import sys; from safe_jax.report import __main__; __main__.main(sys.argv[1:])"
    assert loaded(script, str(run)) == "['matplotlib']"


def test_a_table_is_made_without_drawing_and_intervals_alone_load_scipy():
    script = (
        "from safe_jax import report; from tests.fake_run import parsed, rows\n"
        "report.tables(parsed(rows(seeds={})))"
    )
    assert loaded(script.format((1,))) == "[]"
    assert loaded(script.format((1, 2))) == "['scipy.special']"


FIRST = json.dumps(rows()[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "{dir} holds no results.jsonl: name the --workdir of a run"),
        ("", "{file} holds no row: wait until the run has written one, or run anew"),
        ('{"method": "sa', "{file} holds no row: wait"),  # the first row is being written
        ("{}\n", "{file}, line 1: method is missing (and 9 more); mend or remove the line"),
        ("5\n", "{file}, line 1: 5: an object is expected; mend or remove the line"),
        (FIRST + '\n{"a": \n', "{file}, line 2 is not JSON: EOF while parsing a value"),
        (FIRST.replace("1", '"1"', 1) + "\n", "{file}, line 1: shots='1': a whole number is"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, text, message):
    file = tmp_path / "results.jsonl"
    if text is not None:
        file.write_text(text)
    assert command.main([str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: " + message.format(dir=tmp_path, file=file))
    assert printed.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_missing_directories_and_broken_configs_are_one_line(tmp_path, capsys):
    def error(*arguments):
        assert command.main(list(map(str, arguments))) == 1
        return capsys.readouterr().err

    run = put(tmp_path / "run", rows(seeds=(1,)), {"c0ffee": {}})
    absent, config = tmp_path / "absent", run / "configs" / "c0ffee.json"
    message = f"error: {absent}: no such directory; name the --workdir of a run\n"
    assert error(absent) == message
    nowhere = error(run, "--output", absent / "page.html")
    assert "no such file or directory; name one that is there" in nowhere
    config.write_text("[")
    found = error(run)
    assert found.startswith(f"error: {config} is not JSON: ")
    assert found.endswith("; mend or remove it\n")
    config.write_text("[]")
    assert error(run) == f"error: {config}: []: an object is expected; mend or remove it\n"
