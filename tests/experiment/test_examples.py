"""The images that a run shows, and how much of the pools' attention lies on objects."""

import numpy as np
import PIL.Image

from safe_jax.data import datasets
from safe_jax.data.preprocessing import Preprocessing
from safe_jax.data.records import Record, Splits
from safe_jax.experiment import examples

NO_SPLITS = Splits([], [], [])


def test_attention_on_an_object_counts_cells_as_far_as_they_are_covered(tmp_path):
    PIL.Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    record = Record("a.png", 0, "a")
    data = datasets.Dataset("x", tmp_path, ("a",), (("{}",),), NO_SPLITS, {"a.png": [0, 0, 48, 32]})
    maps = {"left": np.array([[[1.0, 0], [0, 0]]]), "right": np.array([[[0, 0.5], [0.25, 0.25]]])}
    # Of 2 x 2 cells the box covers the whole first and half of the second.
    shares = examples.on_object([record], maps, data, Preprocessing(size=64))
    assert shares == {"left": 100, "right": 25, "even": 37.5}


def test_examples_are_the_same_whatever_the_order():
    records = [Record(f"{n}.jpg", 0, "a") for n in range(50)]
    drawn = examples.draw(records)
    assert len(set(drawn)) == examples.COUNT
    assert examples.draw(records[::-1]) == drawn
    assert sorted(examples.draw(records[:3])) == sorted(records[:3])
