"""Scans of digits in scenes: drawn once, each used once, where their boxes say."""

import json
import pathlib
import sys

import numpy as np
import PIL.Image
import pytest

from safe_jax.data import datasets, digits, scenes
from safe_jax.runtime.errors import InputError


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

    data = datasets.load(datasets.DataSettings(dataset="digits", data_root=str(digits_root)))
    alike = []
    for record in data.splits.val[:50]:
        left, top, right, bottom = map(int, data.boxes[record.path])
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


def test_the_same_pictures_are_drawn_in_folders(digits_root, tmp_path, capsys, monkeypatch):
    scans = list(digits._scans())[::100]
    monkeypatch.setattr(digits, "_scans", lambda: iter(scans))  # drawing them all takes seconds
    folder = tmp_path / "photos"
    assert digits.main([str(folder)]) == 0
    assert len(list(folder.glob("*/*/*.png"))) == len(scans)
    images = digits_root / digits.FOLDER / "images"
    for part, number, label, _ in scans:
        drawn = folder / part / scenes.DIGITS[label] / f"{number:04}.png"
        assert drawn.read_bytes() == (images / part / f"{number:04}_{label}.png").read_bytes()
    assert digits.main([str(folder)]) == 1
    assert capsys.readouterr().err == (
        f"error: {folder} exists already: remove it, or choose another folder\n"
    )
