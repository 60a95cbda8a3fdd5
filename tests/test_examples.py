"""Boxes, and how much of the attention lies in them."""

import json

import numpy as np
import PIL.Image
import pytest

from safe_jax.data import datasets, images
from safe_jax.data.records import Record, read_split_file
from safe_jax.experiment import examples
from safe_jax.runtime.errors import InputError


def test_boxes_follow_the_centre_crop():
    """200 x 100 to 50: scaled to 100 x 50, the crop starts at 25."""
    box = images.box_in_center_crop([50, 0, 100, 50], (200, 100), 50)
    np.testing.assert_allclose(box, [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(
        images.box_in_center_crop([0, 0, 200, 100], (200, 100), 50), [0, 0, 1, 1]
    )


def test_attention_on_an_object_counts_cells_as_far_as_they_are_covered(tmp_path):
    PIL.Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    record = Record("a.png", 0, "a")
    data = datasets.Dataset("x", tmp_path, ("a",), ("{}",), None, {"a.png": [0, 0, 48, 32]})
    maps = {"left": np.array([[[1.0, 0], [0, 0]]]), "right": np.array([[[0, 0.5], [0.25, 0.25]]])}
    # Of 2 x 2 cells the box covers the first whole and half of the second.
    assert examples.on_object([record], maps, data, 64) == {"left": 100, "right": 25, "even": 37.5}


@pytest.mark.parametrize("boxes", [[1], {"a": [1, 2, 3]}, {"a": [5, 0, 4, 9]}, {"a": ["x"] * 4}])
def test_malformed_boxes_are_refused(tmp_path, boxes):
    rows = [["a", 0, "x"]]
    content = {"train": rows, "val": rows, "test": rows, "boxes": boxes}
    (tmp_path / "split.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="boxes by image path"):
        read_split_file(tmp_path / "split.json")


def test_examples_are_the_same_whatever_the_order():
    records = [Record(f"{n}.jpg", 0, "a") for n in range(50)]
    drawn = examples.draw(records)
    assert len(set(drawn)) == examples.COUNT
    assert examples.draw(records[::-1]) == drawn
    assert sorted(examples.draw(records[:3])) == sorted(records[:3])
