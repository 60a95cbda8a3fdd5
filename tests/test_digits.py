"""The embedded default: scenes, the digits among them, and the small CLIP that knows print."""

import json
import pathlib
import random
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from safe_jax import clip
from safe_jax.clip import download, torch_files
from safe_jax.data import datasets, digits, scenes
from safe_jax.runtime.errors import InputError
from tests import tiny

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def digits_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    digits.make(root)
    return root


def red(pixels_hwc):
    """Where a picture on a white ground is red."""
    return pixels_hwc[..., 0] > pixels_hwc[..., 1:].max(-1).astype(int) + 90


@pytest.mark.parametrize("kind", ["digit", "letter", "shape"])
def test_things_are_drawn_in_their_boxes(kind):
    for seed in range(20):
        rng = random.Random(seed)
        thing = scenes.random_thing(rng, kind, "white")._replace(colour="red")
        scene = scenes.draw(rng, 128, [thing], "white", [(0.3, 0.5)])
        box = scene.boxes[0]
        inside = np.zeros((128, 128), bool)
        inside[box.top : box.top + box.side, box.left : box.left + box.side] = True
        assert red(scene.pixels)[inside].mean() > 0.03
        assert not red(scene.pixels)[~inside].any()


def test_things_do_not_hide_each_other():
    for seed in range(50):
        rng = random.Random(seed)
        things = [scenes.random_thing(rng, "shape", "grey") for _ in range(4)]
        boxes = scenes.draw(rng, 128, things, "grey", [(0.26, 0.45)] * 4).boxes
        assert len(boxes) >= 2
        count_hw = np.zeros((128, 128), int)
        for left, top, side in boxes:
            count_hw[top : top + side, left : left + side] += 1
        assert (count_hw > 1).sum() <= 0.05 * 6 * max(side for *_, side in boxes) ** 2


def test_a_scene_is_its_seeds():
    def draw(seed):
        rng = random.Random(seed)
        return scenes.draw(rng, 64, [scenes.random_thing(rng, "digit", "blue")], "blue", [(0.5, 1)])

    np.testing.assert_array_equal(draw(1).pixels, draw(1).pixels)
    assert (draw(1).pixels != draw(2).pixels).any()


def test_digits_are_made_once_and_each_is_used_once(digits_root):
    folder = digits_root / digits.FOLDER
    content = json.loads((folder / "split.json").read_text())
    numbers = [{row[0].split("/")[1] for row in content[p]} for p in ("train", "val", "test")]
    assert [len(part) for part in numbers] == [500, 500, 797]
    assert len(set.union(*numbers)) == 1797
    assert {row[1] for row in content["train"]} == set(range(10))
    before = (folder / "split.json").stat().st_mtime_ns
    digits.make(digits_root)
    assert (folder / "split.json").stat().st_mtime_ns == before


def test_the_digits_lie_where_their_boxes_say(digits_root):
    """A scan's own ink shows: inside its box pixels follow the scan, darker or lighter."""
    from sklearn.datasets import load_digits

    named = {"dataset": "digits", "image_dir": "", "split_file": "", "templates": ()}
    data = datasets.load(tiny.config(digits_root, **named))
    alike = []
    for record in data.splits.val[:50]:
        left, top, right, bottom = data.boxes[record.path]
        number = int(pathlib.Path(record.path).name.split("_")[0])
        scan = PIL.Image.fromarray(load_digits().images[number].astype(np.uint8))
        ink = np.asarray(scan.resize((right - left, bottom - top), PIL.Image.Resampling.BICUBIC))
        with PIL.Image.open(data.image_dir / record.path) as picture:
            shown = picture.crop((left, top, right, bottom))
        channel = max(np.asarray(shown, float).reshape(-1, 3).T, key=np.std)
        alike.append(abs(np.corrcoef(ink.ravel(), channel)[0, 1]))
    assert np.median(alike) > 0.7


def test_digits_without_scikit_learn_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"pip install 'safe_jax\[digits\]'"):
        digits.make(tmp_path)
    assert not (tmp_path / digits.FOLDER).exists()


# The small CLIP.


def test_the_small_clip_goes_through_the_table(tmp_path):
    model = clip.load("small", cache_dir=tmp_path)
    assert (model.image_size, model.config.dense_shape) == (128, (4, 4, 512))
    directory = clip.locate("small", tmp_path)
    assert clip.locate("small", tmp_path) == directory  # as it was made
    torch_files.convert_back(directory, tmp_path / "back.safetensors")
    before, after = (
        torch_files.read(download.SMALL),
        torch_files.read(tmp_path / "back.safetensors"),
    )
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)


def test_the_readmes_first_command_learns_where_to_look(tmp_path, digits_root):
    """With fewer shots, seeds and methods: zero-shot is above chance, tuning far above it."""
    process = subprocess.run(
        [sys.executable, "-m", "safe_jax.main", "--config", "configs/digits.py",
         "--workdir", str(tmp_path / "run"), "--config.cache_dir", str(tmp_path / "cache"),
         "--config.data_root", str(digits_root), "--config.shots=1,16", "--config.seeds=1",
         "--config.methods=zero_shot,safe"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    zero_shot, one, _, sixteen = map(json.loads, lines)
    assert zero_shot["accuracy"] > 20  # chance is 10
    assert one["accuracy"] > zero_shot["accuracy"] - 2
    assert sixteen["accuracy"] > zero_shot["accuracy"] + 12
    looks = sixteen["attention_on_object"]
    assert looks["tuned"] > looks["original"] + 5
    assert process.stdout.splitlines()[-1] == f"report: {tmp_path / 'run' / 'report.html'}"
    assert len(sixteen["examples"]) == 10
    for example in sixteen["examples"]:
        with PIL.Image.open(tmp_path / "run" / example["image"]) as picture:
            assert picture.size == (128, 128)
        for where in example["attention"].values():
            assert abs(np.sum(where) - 1) < 1e-2
