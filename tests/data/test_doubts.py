"""What a listing has that misleads is told: leaks, copies, labels and classes that do not fit."""

import re

import pytest

from safe_jax.data import copies, doubts
from safe_jax.data.records import Record, Splits

CLASSES = "cat", "dog"


def records(text):
    """`a0 b1`: images a and b, of the classes 0 and 1."""
    return [Record(word[:-1], int(word[-1]), CLASSES[int(word[-1])]) for word in text.split()]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("a0 b1", "c0 d1", "e0 f1"), []),
        (("a0 b1", "c0 d1", "a0 f1"), ["1 images are in test and in train or val: accuracies"]),
        (("a0 b1", "c0 d1", "./c0 f1"), ["1 images are in test and in train or val: accuracies"]),
        (("a0 b1", "a0 b1", "e0 f1"), ["2 images are in train and in val: what validation"]),
        (("a0 b1 a1", "", "e0 f1"), ["1 images have several labels, such as a: cat and dog"]),
        (("a0", "", "e0 f1"), ["mine: 1 of 2 classes have no training image: dog"]),
        (("a0 b1", "c0", "e0 f1"), ["mine: 1 of 2 classes have no validation image: dog"]),
        (("a0 b1", "c0 d1", "f1"), ["mine: 1 of 2 classes have no test image: cat"]),
    ],
)
def test_listings_that_mislead_are_told_of(parts, said, caplog):
    doubts.warn("mine", Splits(*map(records, parts)), CLASSES)
    assert len(caplog.messages) == len(said)
    assert all(wanted in found for wanted, found in zip(said, caplog.messages, strict=True))


def test_one_name_of_several_labels_is_told_of(caplog):
    doubts.warn("mine", Splits(*map(records, ("a0 b1", "", "c0 d1"))), ("cat", "cat"))
    assert caplog.messages == ["1 class names are those of several labels, such as cat: 0 and 1"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("x1a0 y1a1", "z1a0", "u1a0 v1a1"), []),
        (("x1a0 y1a1", "z1a0", "x2a0 v1a1"), ["1 images to evaluate on are .* such as x2a:"]),
        (("x1a0 y1a1", "z1a0", "z2a0 v1a1"), ["1 images to evaluate on are .* such as z2a:"]),
        (("x1a0 y1a1", "x2a0", "u1a0 v1a1"), ["1 validation images are .* such as x2a:"]),
        (("x1a0 x2a1", "z1a0", "u1a0 v1a1"), [r"1 images .* x1a \(cat\) and x2a \(dog\)"]),
        (("x1a0 y1a1", "x1a0", "u1a0 v1a1"), []),  # one path: told of where a listing is read
        (("x1a0 absent1", "z1a0", "absent0 v1a1"), []),
    ],
)
def test_copies_are_told_of_whatever_they_are_called(tmp_path, parts, said, caplog):
    """Files with the same first letter have the same bytes; all have the same size."""
    parts = dict(zip(("train", "val", "eval"), map(records, parts), strict=True))
    for path in {record.path for part in parts.values() for record in part} - {"absent"}:
        (tmp_path / path).write_bytes(path[:1].encode() + bytes(5000))
    copies.warn(parts, tmp_path, CLASSES)
    assert len(caplog.messages) == len(said)
    for message, pattern in zip(caplog.messages, said, strict=True):
        assert re.search(pattern, message)
