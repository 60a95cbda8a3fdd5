"""The command that looks at data before anything is run."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from safe_jax.data import check, imagenet
from safe_jax.data.layouts import LAYOUTS
from tests.data.listings import make_imagenet, touch

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path):
    """Pets and satellites, each with three images."""
    for folder, images, file in (
        ("oxford_pets", "images", "split_zhou_OxfordPets.json"),
        ("eurosat", "2750", "split_zhou_EuroSAT.json"),
    ):
        touch(tmp_path / folder / images, "x/a_1.jpg", "x/b_1.jpg", "c_1.jpg")
        rows = [["x/a_1.jpg", 0, "a"], ["x/b_1.jpg", 1, "b"], ["c_1.jpg", 0, "a"]]
        split = {part: [row] for part, row in zip(("train", "val", "test"), rows, strict=True)}
        (tmp_path / folder / file).write_text(json.dumps(split))
    return tmp_path


def said(capsys, root):
    """The lines about each data set, and the exit code."""
    code = check.main(["--root", str(root)])
    lines = {}
    for line in capsys.readouterr().out.splitlines():
        if not line.startswith(" "):
            name, *rest = line.split(maxsplit=1)
            lines[name] = rest
        else:
            lines[name].append(line.strip())
    return lines, code


def test_what_is_there_and_whole(root, capsys):
    lines, code = said(capsys, root)
    assert code == 0
    assert lines["eurosat"] == ["2 classes; 1 train, 1 val and 1 test images"]
    assert lines["oxford_pets"] == lines["eurosat"]
    assert len(lines) == 15
    assert [name for name in lines if lines[name] != ["absent"]] == ["oxford_pets", "eurosat"]


def test_what_is_missing_or_misnamed(root, capsys):
    (root / "oxford_pets").rename(root / "oxford-pets")
    (root / "eurosat" / "2750" / "x").rename(root / "eurosat" / "2750" / "X")
    lines, code = said(capsys, root)
    assert code == 1
    assert lines["oxford_pets"] == [
        "incomplete", f"{root}/oxford-pets is probably oxford_pets: rename it",
    ]  # fmt: skip
    assert lines["eurosat"][1:] == [
        "2 of 3 images are missing: x/a_1.jpg, x/b_1.jpg",
        f"{root}/eurosat/2750/X is probably x: rename it",
    ]

    (root / "oxford-pets").rename(root / "oxford_pets")
    (root / "oxford_pets" / "split_zhou_OxfordPets.json").rename(root / "oxford_pets" / "x.json")
    shutil.rmtree(root / "oxford_pets" / "images")
    touch(root / "fgvc_aircraft" / "images", "1.jpg")
    lines, code = said(capsys, root)
    assert lines["oxford_pets"][1:] == [
        f"{root}/oxford_pets/images is missing",
        f"{root}/oxford_pets/split_zhou_OxfordPets.json is missing",
    ]
    assert lines["fgvc_aircraft"][1].startswith("4 lists of FGVC-Aircraft are missing")
    assert lines["fgvc_aircraft"][-1] == f"{root}/fgvc_aircraft/images_variant_test.txt"


def test_variants_of_imagenet(tmp_path, capsys):
    """A neighbour's folder is no misspelling: imagenetv2 is there, imagenet is not."""
    wnids = list(imagenet.benchmark_classes())
    touch(tmp_path / "imagenet-rendition" / "imagenet-r", f"{wnids[1]}/a.jpg", f"{wnids[9]}/a.jpg")
    v2 = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    touch(v2, *(f"{label}/a.jpeg" for label in range(999)))
    lines, code = said(capsys, tmp_path)
    assert code == 1
    assert lines["imagenet"] == ["absent"]
    assert lines["imagenet_r"] == ["2 classes; 2 test images"]
    assert lines["imagenet_v2"][1:] == [f"{v2}: 1 class folders are missing:", wnids[999]]
    touch(v2, "999/a.jpeg")
    assert said(capsys, tmp_path)[1] == 0


@pytest.mark.parametrize(
    ("files", "split", "said"),
    [
        (["dtd/dtd/images/banded/1.jpg"], "dtd", "dtd/dtd"),
        (["eurosat/EuroSAT_RGB/Forest/1.jpg"], "eurosat", "eurosat/EuroSAT_RGB"),
        (["stanford_cars/cars_train/cars_train/1.jpg"], "stanford_cars", "cars_train/cars_train"),
        (["sun397/SUN397/abbey/1.jpg"], "sun397", "sun397/SUN397/abbey"),
    ],
)
def test_a_layout_that_is_one_folder_off_is_told_of(tmp_path, capsys, files, split, said):
    touch(tmp_path, *files)
    paths_of = {
        "dtd": "banded/1.jpg", "eurosat": "Forest/1.jpg",
        "stanford_cars": "cars_train/1.jpg", "sun397": "a/abbey/1.jpg",
    }  # fmt: skip
    row = [paths_of[split], 0, "x"]
    file = tmp_path / LAYOUTS[split].split_file
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"train": [row], "val": [], "test": [row]}))
    assert check.main(["--root", str(tmp_path)]) == 1
    out, _ = capsys.readouterr()
    assert f"is expected, and its contents are in {tmp_path}/" in out
    assert f"{said}: move them" in out


def test_the_command_in_a_process_of_its_own(root):
    """Also the code by which a shell knows that something is wrong."""
    command = [sys.executable, "-m", "safe_jax.data.check", "--config=configs/caltech101.py"]
    command.append(f"--config.data_root={root}")
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (1, "caltech101  absent\n")
    assert process.stderr == f"error: caltech101 is not in {root}; see config.data_root\n"


def test_data_sets_of_a_config(root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["check", *arguments])  # ml_collections looks there
        try:
            code, mistake = check.main(list(arguments)), ""
        except SystemExit as exited:  # Python prints its message, and exits with 1
            code, mistake = 1, f"{exited.code}\n"
        out, error = capsys.readouterr()
        return code, out, error + mistake

    file = tmp_path / "split.json"
    file.write_text((root / "eurosat" / "split_zhou_EuroSAT.json").read_text())
    own = ["--config=configs/folder.py", f"--config.image_dir={root}/eurosat/2750"]
    code, out, _ = run(*own, f"--config.split_file={file}")
    assert (code, out) == (0, "2750  2 classes; 1 train, 1 val and 1 test images\n")
    code, out, _ = run(*own)
    assert code == 1
    assert "a folder for each of at least two classes is expected" in out
    code, _, error = run("--config=configs/caltech101.py", f"--config.data_root={root}")
    assert (code, error) == (1, f"error: caltech101 is not in {root}; see config.data_root\n")
    both = "--config.dataset=eurosat,dtd"
    code, out, error = run("--config=configs/caltech101.py", f"--config.data_root={root}", both)
    assert (code, error) == (1, f"error: dtd is not in {root}; see config.data_root\n")
    assert "eurosat  2 classes; 1 train, 1 val and 1 test images\n" in out
    code, _, error = run("--config=configs/caltech101.py", "--config.data_rot=x")
    assert (code, error) == (
        1, "error: there is no config.data_rot: did you mean config.data_root?\n",
    )  # fmt: skip
    make_imagenet(root, list(imagenet.benchmark_classes()), "train", 1)
    make_imagenet(root, list(imagenet.benchmark_classes()), "val", 1)
    variants = "--config.transfer=imagenet_a,imagenet_b,eurosat"
    code, out, error = run("--config=configs/imagenet.py", f"--config.data_root={root}", variants)
    assert (code, error) == (1, f"error: imagenet_a is not in {root}; see config.data_root\n")
    assert "imagenet    1000 classes; 1000 train, 0 val and 1000 test images\n" in out
    assert "'imagenet_b' is not one of imagenet_v2" in out
    assert "eurosat     2 classes; 1 train, 1 val and 1 test images\n" in out
    code, _, error = run("--root", str(root / "eurosat"))
    assert (code, error) == (1, f"error: nothing of the benchmark is in {root}/eurosat\n")
