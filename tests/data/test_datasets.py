"""Settings, layouts, and the data sets that they describe."""

import subprocess
import sys

import pytest

from configs import default
from safe_jax.data import datasets, imagenet, layouts, records
from safe_jax.runtime.errors import InputError
from tests import tiny


def test_importing_data_sets_loads_no_library_that_few_runs_need():
    code = "import sys, safe_jax.data.datasets; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    loaded = {name.split(".")[0] for name in process.stdout.split()}
    assert "safe_jax" in loaded
    assert not loaded & {"matplotlib", "tensorflow_datasets", "array_record", "sklearn"}


def test_settings_of_a_config_are_typed():
    config = default.get_config()
    config.update(dataset="dtd", templates=("a {}.",))
    settings = datasets.read_settings(config)
    assert (settings.dataset, settings.templates) == ("dtd", ("a {}.",))
    with pytest.raises(InputError, match=r"config\.dataset=3: a text is expected"):
        datasets.read_settings(dict(config, dataset=3))
    with pytest.raises(InputError, match=r"^config\.dataset is missing \(and \d+ more\): a"):
        datasets.read_settings({"shots": (1,)})


def test_layouts_say_how_they_are_read():
    assert layouts.LAYOUTS["imagenet"].read is imagenet.read
    assert layouts.LAYOUTS["fgvc_aircraft"].read is records.read_aircraft
    assert [name for name, layout in layouts.LAYOUTS.items() if layout.make] == ["digits"]
    whole = [name for name, variant in layouts.TRANSFER.items() if variant.whole]
    assert whole == ["imagenet_v2", "imagenet_sketch"]


def load_tiny(root, **knobs):
    return datasets.load(datasets.read_settings(tiny.config(root, **knobs)))


def test_a_users_data_set(tiny_root):
    data = load_tiny(tiny_root)
    assert data.classnames == ("red", "green", "blue", "dark grey")  # _ is a space
    assert [len(part) for part in data.splits] == [40, 24, 48]
    assert all((data.image_dir / record.path).exists() for record in data.splits.test)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"dataset": "caltech11", "image_dir": "", "split_file": ""}, "did you mean 'caltech101'"),
        ({"dataset": "mine", "image_dir": ""}, "set config.image_dir, and config.split_file if"),
        ({"split_file": "absent.json"}, "no such split file; point config.data_root"),
        ({"templates": ("a photo",)}, "one {} is expected"),
        ({"templates": ()}, "has no prompts: set config.templates="),
        (
            {"dataset": "dtd", "tfds": "eurosat", "image_dir": "", "split_file": ""},
            "config.dataset=dtd is not what config.tfds=eurosat has: unset one",
        ),
    ],
)
def test_missing_settings_are_named(tiny_root, knobs, said):
    with pytest.raises(InputError, match=said):
        load_tiny(tiny_root, **knobs)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"train": [["a", 0, "x"]], "val": [], "test": [["b", 2, "y"]]}', "labels must be 0 to 1"),
        ('{"train": [["a", 0, "x"]], "val": [], "test": [["b", 0, "y"]]}', "one class name for"),
    ],
)
def test_labels_and_class_names_must_agree(tiny_root, tmp_path, content, said):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(InputError, match=said):
        load_tiny(tiny_root, split_file=str(tmp_path / "split.json"))
