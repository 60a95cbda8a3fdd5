"""Base to new on the coloured patches, in seven classes: four are base, three are new."""

import dataclasses
import json
import pathlib
import statistics

import numpy as np
import pytest

from safe_jax.data import base_to_new, few_shot
from safe_jax.data.datasets import Dataset
from safe_jax.data.records import Record, Splits
from safe_jax.methods.catalogue import METHODS
from safe_jax.methods.text_head import TextHead, with_head
from safe_jax.methods.text_rows import text_rows
from safe_jax.runtime.errors import InputError
from tests import in_process

BASE = 4
CLASSES = ("red", "green", "blue", "dark_grey", "zebra", "violin", "teapot")
OPEN = ("zero_shot", "safe", "prolip")  # the context of the last has more than a text head
CLOSED = ("tip_adapter",)


def split(tiny_root, classes=CLASSES):
    """The patches' split, with some images of each colour but one as another class.

    The random model hardly tells images apart: of unequal parts its accuracy says what it answers.
    """
    found = json.loads((tiny_root / "patches" / "split.json").read_text())
    for part, rows in found.items():
        label_n = [
            label + BASE if label < len(classes) - BASE and n % (label + 2) == 0 else label
            for n, (_, label, _) in enumerate(rows)
        ]
        found[part] = [[row[0], k, classes[k]] for row, k in zip(rows, label_n, strict=True)]
    return found


def run(tiny_root, folder, content, **knobs):
    folder.mkdir()
    (folder / "split.json").write_text(json.dumps(content))
    knobs = {"shots": "4", "protocol": "base_to_new", "split_file": folder / "split.json"} | knobs
    return in_process.watch_tiny(tiny_root, folder / "run", folder.parent / "cache", **knobs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("base_to_new")


@pytest.fixture(scope="module")
def watched(tiny_root, folder):
    knobs = {"methods": ",".join(OPEN + CLOSED), "prolip.epochs": 2}
    return run(tiny_root, folder / "first", split(tiny_root), **knobs)


@pytest.mark.parametrize("name", OPEN)
def test_each_half_is_classified_among_its_own_classes(watched, tiny_root, name):
    """As NumPy does with the logits of all seven classes, and labels from the split file."""
    trial, row = watched.trial, watched.rows[name]
    shared, classifier = trial.shared, trial.outcomes[name].classifier
    prompts = [[f"a photo of a {name.replace('_', ' ')} thing."] for name in CLASSES]
    head = TextHead.of(shared.model, text_rows(shared.model, prompts))
    of_all = dataclasses.replace(classifier, context=with_head(classifier.context, head))
    assert classifier.classes == ("red", "green", "blue", "dark grey")

    label_of = {path: label for path, label, _ in split(tiny_root)["test"]}
    found = []
    for use, half in (("eval", slice(0, BASE)), ("new", slice(BASE, None))):
        dense = trial.dense(use)
        label_n = np.array([label_of.pop(dense.paths[image]) for image in dense.image_n])
        logits_nk = of_all.logits_of(trial.view(METHODS[name], use), shared.reader)
        assert logits_nk.shape[1] == len(CLASSES)
        answer_n = np.arange(len(CLASSES))[half][logits_nk[:, half].argmax(1)]
        found.append(100 * np.mean(answer_n == label_n))
    assert not label_of  # every test image is in one of the halves
    base, new = found
    assert (row.accuracy, row.new_accuracy) == (pytest.approx(base), pytest.approx(new))
    assert row.harmonic_mean == pytest.approx(2 * base * new / (base + new))
    assert row.closed_set is None


@pytest.mark.parametrize("name", CLOSED)
def test_a_method_without_an_answer_says_so(watched, name):
    row = watched.rows[name]
    assert (row.new_accuracy, row.harmonic_mean) == (None, None)
    assert row.closed_set.startswith("no answer for classes that were not tuned on: ")
    assert '"new_accuracy": null, "harmonic_mean": null' in row.line()
    (line,) = (x for x in watched.printed.splitlines() if x.startswith(METHODS[name].label))
    assert line.split()[-2:] == ["-", "-"]
    assert f"({METHODS[name].label}: {row.closed_set})" in watched.printed


def test_the_subset_is_that_of_all_classes_without_the_new_ones(watched, tiny_root):
    content = split(tiny_root)
    drawn = few_shot.subset(content["train"], content["val"], 4, 1)
    for records, wanted in zip(
        (watched.trial.subset.train, watched.trial.subset.val), drawn, strict=True
    ):
        assert [list(record) for record in records] == [row for row in wanted if row[1] < BASE]


def test_nothing_depends_on_the_new_classes_but_their_own_accuracy(watched, tiny_root, folder):
    """They have each other's names here: the base classes' numbers are the same, bit by bit."""
    content = split(tiny_root, (*CLASSES[:BASE], "teapot", "zebra", "violin"))
    again = run(tiny_root, folder / "again", content, methods="safe")
    first, second = watched.rows["safe"], again.rows["safe"]
    for field in ("accuracy", "alpha", "losses", "curve", "selection"):
        assert getattr(first, field) == getattr(second, field), field
    assert second.new_accuracy != first.new_accuracy
    assert second.config_hash != first.config_hash
    assert "zebra" not in "".join(watched.trial.outcomes["safe"].classifier.classes)


def dataset(classes, absent=()):
    """A record of each class in each split, but for pairs (split, label) that are `absent`."""
    names = tuple(map(str, range(classes)))
    splits = Splits(
        *(
            [Record(f"{part}{k}", k, names[k]) for k in range(classes) if (part, k) not in absent]
            for part in Splits._fields
        )
    )
    return Dataset("mine", pathlib.Path("x"), names, tuple((n,) for n in names), splits, {})


@pytest.mark.parametrize(("classes", "base_classes"), [(2, 1), (3, 2), (4, 2), (5, 3), (101, 51)])
def test_the_first_half_of_the_classes_is_base_the_middle_one_too(classes, base_classes):
    base, new = base_to_new.divide(dataset(classes))
    names = [str(k) for k in range(classes)]
    assert base.classnames == tuple(names[:base_classes])
    assert base.prompts == tuple((name,) for name in names[:base_classes])
    for part in base.splits:
        assert [(r.label, r.classname) for r in part] == list(enumerate(names[:base_classes]))
    assert [(r.label, r.classname) for r in new.records] == list(enumerate(names[base_classes:]))
    assert new.prompts == tuple((name,) for name in names[base_classes:])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dataset(1), "mine has one class; at least two are expected"),
        (dataset(2, {("train", 0)}), "mine has no training image of the base classes; the base"),
        (dataset(2, {("test", 0)}), "mine has no test image of the base classes; the base"),
        (
            dataset(3, {("test", 2)}),
            "mine has no test image of the new classes; .* are 0 to 1, the",
        ),
    ],
)
def test_a_half_without_images_is_a_mistake(data, message):
    with pytest.raises(InputError, match=f"^config.protocol=base_to_new: {message}"):
        base_to_new.divide(data)


def test_the_harmonic_mean_of_nothing_right_is_nothing():
    assert statistics.harmonic_mean([0.0, 40.0]) == 0
