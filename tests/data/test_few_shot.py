"""Few-shot subsets are CoOp's."""

import collections
import hashlib
import json

import pytest

from safe_jax.data import few_shot, layouts
from safe_jax.data.records import read_split_file


def test_subsets_are_coops(shared):
    """All 75 published draws of the five data sets whose split files are at hand."""
    digests = json.loads((shared / "facts" / "few_shot_digests.json").read_text())["subsets"]
    folder = {"caltech101": shared / "data" / "caltech-101"}
    checked = 0
    for name, draws in digests.items():
        file = layouts.LAYOUTS[name].split_file.split("/")[-1]
        splits, _ = read_split_file(folder.get(name, shared / "facts" / "splits") / file, shared)
        for key, wanted in draws.items():
            shots, seed = (int(part.split("_")[1]) for part in key.split("-"))
            drawn = few_shot.subset(splits.train, splits.val, shots, seed)
            for part, subset in zip(("train", "val"), drawn, strict=True):
                listing = "\n".join(record.path for record in subset)
                assert hashlib.sha256(listing.encode()).hexdigest() == wanted[part], (name, key)
                checked += 1
    assert checked == 150


def test_subset_draws_by_class_in_order_of_appearance():
    train = [(f"{label}{i}", label) for i in range(9) for label in (2, 0, 1)] + [("rare", 3)]
    val = [(f"v{label}{i}", label) for label in (1, 0) for i in range(9)]
    drawn, drawn_val = few_shot.subset(train, val, shots=8, seed=1)
    assert [r[1] for r in drawn] == [2] * 8 + [0] * 8 + [1] * 8 + [3]
    assert collections.Counter(r[1] for r in drawn_val) == {1: 4, 0: 4}
    assert len(set(drawn)) == len(drawn)
    assert few_shot.subset(train, val, 8, 1) == (drawn, drawn_val)
    assert few_shot.subset(train, val, 8, 2) != (drawn, drawn_val)
    # One generator for both: what val gives depends on what train took.
    assert few_shot.subset(train[:9], val, 8, 1)[1] != drawn_val
    with pytest.raises(ValueError, match="at least 1"):
        few_shot.subset(train, val, 0, 1)
