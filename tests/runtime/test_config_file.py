"""Config files and knobs on a command line: whatever is wrong with them gets one line."""

import os

import pytest
from absl import flags
from ml_collections import config_flags

from safe_jax.runtime import command_line
from tests.commands import ROOT

BEGIN = "from configs import default\n\n\ndef get_config():\n    config = default.get_config()\n"
END = "    return config\n"

FILES = {
    "syntax": ("def get_config(:\n", "{file}, line 1 is not Python: invalid syntax"),
    "nul": ("a\0b", "{file} is not Python: "),
    "brackets": ("(" * 500, "{file}, line 1 is not Python: too many nested parentheses"),
    "latin-1": (b"# \xe9\n", "{file} is not Python: "),
    "nothing": ("", "{file} has no function get_config"),
    "another kind": ("get_config = 3", "{file} has no function get_config"),
    "none": ("def get_config():\n    pass", "{file}: get_config returns None; a ConfigDict is exp"),
    "dict": ("def get_config():\n    return {}", "{file}: get_config returns a dict; a ConfigDict"),
    "raises": (BEGIN + "    1 / 0\n", "{file}, line 6: ZeroDivisionError: division by zero"),
    "no words": (BEGIN + "    assert False\n", "{file}, line 6: AssertionError"),
    "of a library": (BEGIN + "    int('x')\n", "{file}, line 6: ValueError: invalid literal"),
    "key": (BEGIN + "    {}['DATA']\n", "{file}, line 6: KeyError: 'DATA'"),
    "attribute": (BEGIN + "    config.shots.x\n", "{file}, line 6: AttributeError: 'tuple' object"),
    "missing file": (BEGIN + "    open('/absent')\n", "{file}, line 6: FileNotFoundError: "),
    "exits": (BEGIN + "    exit(3)\n", "{file}, line 6 ends the program; get_config is to return"),
    "exits at once": ("raise SystemExit", "{file}, line 1 ends the program; get_config is to"),
    "recursion": ("def get_config():\n    return get_config()", "{file}, line 2: RecursionErr"),
    "memory": ("raise MemoryError", "{file}, line 1: MemoryError"),
    "another type": (BEGIN + "    config.shots = 3\n", "{file}, line 6: TypeError: Could not"),
    "placeholder": (
        BEGIN + "    config.unlock()\n    from ml_collections import config_dict\n"
        "    config.epochs = config_dict.required_placeholder(int)\n    return config\n",
        "{file}: RequiredValueError: None value found in required reference",
    ),
    "import": ("from nobody import x", "No module named 'nobody', which the config file imports: "),
    "unknown": (
        BEGIN + "    config.learning_rte = 1\n",
        "there is no config.learning_rte: did you mean config.learning_rate?",
    ),
    "unknown of a method": (BEGIN + "    config.prolip.lamda = 1\n", "there is no config.lamda: "),
}  # fmt: skip


def parse(*arguments, monkeypatch):
    monkeypatch.setattr("sys.argv", ["main", *arguments])  # ml_collections looks there for knobs
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    command_line.parse(["main", *arguments], values)
    return values["config"].value


def refused(*arguments, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        parse(*arguments, monkeypatch=monkeypatch)
    assert ended.value.code.startswith("error: ")
    assert "\n" not in ended.value.code
    return ended.value.code.removeprefix("error: ")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_makes_no_config_has_one_line(name, tmp_path, monkeypatch):
    content, message = FILES[name]
    file = tmp_path / "mine.py"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for knobs in ((), ("--config.epochs=3",)):
        line = refused(f"--config={file}", *knobs, monkeypatch=monkeypatch)
        assert line.startswith(message.format(file=file))


def test_what_is_no_file_has_one_line(tmp_path, monkeypatch):
    (tmp_path / "folder.py").mkdir()
    os.mkfifo(tmp_path / "fifo.py")
    os.symlink("loop.py", tmp_path / "loop.py")
    for given, message in (
        (tmp_path / "folder.py", "folder.py is no file: name the .py file of a config"),
        (tmp_path / "fifo.py", "fifo.py is no file: name"),  # opening it would wait for ever
        (tmp_path / "loop.py", "loop.py: Too many levels of symbolic links"),
        (tmp_path / "absent.py", "absent.py: No such file"),
        ("", "--config is empty: name a file"),
        (f"{ROOT}/configs/ablations.py:x", "ablations:x: one of default, position, q, k"),
        (f"{ROOT}/configs/digits.py:x", "takes 0 positional arguments but 1 was given"),
        ("ablations:x", "ablations:x: one of default, position, q, k"),
        ("imagnet", "there is no config 'imagnet': did you mean imagenet?"),
        ("nothing", "there is no config 'nothing': one of ablations, base_to_new, benchmark"),
    ):
        assert message in refused(f"--config={given}", monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ("epochs=many", "flag --config.epochs=many: a whole number is expected"),
        ("epochs=", "flag --config.epochs=: a whole number is expected"),
        ("epochs=1e15", "flag --config.epochs=1e15: a whole number is expected"),
        ("eps=small", "flag --config.eps=small: a number is expected"),
        ("save_classifiers=maybe", "flag --config.save_classifiers=maybe: True or False is"),
        ("shots=(1,", "flag --config.shots=(1,: Error while parsing"),
        ("prolip=3", "flag --config.prolip=3: Failed to parse"),
        ("prolip.nothing=3", "there is no config.nothing: "),
        ("nothing.x=3", "there is no config.nothing: "),
        ("shots.x=3", "tuple indices must be integers or slices, not str: set knobs as --config."),
        ("=3", "Could not parse"),
    ],
)
def test_a_knob_that_cannot_be_set_has_one_line(knob, message, monkeypatch):
    given = f"--config.{knob}"
    line = refused("--config=default", given, monkeypatch=monkeypatch)
    assert line.startswith(message)


def test_data_classes_and_the_files_own_name_are_there(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\nimport dataclasses, pathlib\n"
        "@dataclasses.dataclass\nclass Choice:\n    epochs: int = 7\n"
        f"{BEGIN}    config.epochs = Choice().epochs\n"
        f"    config.dataset = pathlib.Path(__file__).stem\n{END}"
    )
    config = parse(f"--config={file}", "--config.seeds=5", monkeypatch=monkeypatch)
    assert (config.epochs, config.dataset, config.seeds) == (7, "mine", (5,))
