"""A part of ImageNet made of coloured patches: models tuned on it are evaluated elsewhere."""

import json
import shutil

import numpy as np
import pytest

from safe_jax import report
from safe_jax.classifier import classifier
from safe_jax.data import imagenet
from safe_jax.experiment import run as experiment
from safe_jax.runtime.errors import InputError
from tests import tiny

WNIDS = list(imagenet.benchmark_classes())[10:14]


@pytest.fixture(scope="module")
def root(tiny_root, tmp_path_factory):
    """ImageNet with the patches' four colours as classes, ImageNet-A with copies of two of them."""
    root = tmp_path_factory.mktemp("imagenet")
    for wnid, colour in zip(WNIDS, tiny.COLOURS, strict=True):
        for file in sorted((tiny_root / "patches" / "images" / colour).iterdir()):
            part = "val" if file.name.startswith("test") else "train"
            folders = [root / "imagenet" / "images" / part / wnid]
            if part == "val" and wnid in WNIDS[1:3]:
                folders.append(root / "imagenet-adversarial" / "imagenet-a" / wnid)
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder)
    names = "".join(f"{wnid} {name}\n" for wnid, name in zip(WNIDS, tiny.COLOURS, strict=True))
    (root / "imagenet" / "classnames.txt").write_text(names)
    return root


def config(root, tiny_root, cache, **knobs):
    config = tiny.config(tiny_root, dataset="imagenet", image_dir="", split_file="")
    config.update(
        data_root=str(root), cache_dir=str(cache), transfer=("imagenet_a",), shots=(4,), epochs=4
    )
    config.update(knobs)
    return config


def test_a_tuned_model_is_evaluated_elsewhere(root, tiny_root, tmp_path):
    run = config(root, tiny_root, tmp_path / "cache")
    rows = experiment.run(run, tmp_path / "run")
    assert [(row.dataset, row.method) for row in rows] == [
        ("imagenet_a", "zero_shot"),
        ("imagenet", "zero_shot"),
        ("imagenet_a", "safe"),
        ("imagenet", "safe"),
    ]
    elsewhere, own = rows[2:]
    assert elsewhere.tuned_on == "imagenet"
    assert own.tuned_on is None
    assert elsewhere.alpha == own.alpha
    for field in ("shots", "seed", "split", "selection", "config_hash", "weights", "images"):
        assert getattr(elsewhere, field) == getattr(own, field)

    first, second = report.tables(rows).split("\n\n")
    assert first.startswith("imagenet, clip_tiny@")
    assert second.startswith("imagenet_a (tuned on imagenet), clip_tiny@")
    report.write([tmp_path / "run"], tmp_path / "report.html")
    assert "imagenet_a" in (tmp_path / "report.html").read_text()


def test_a_kill_between_rows_leaves_no_row_twice(root, tiny_root, tmp_path):
    run = config(root, tiny_root, tmp_path / "cache")
    wanted = experiment.run(run, tmp_path / "run")
    file = tmp_path / "run" / "results.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]))  # SAFE's own row is not there yet
    again = experiment.run(run, tmp_path / "run")

    def without_seconds(rows):
        return [row.model_copy(update={"seconds": 0.0}) for row in rows]

    assert without_seconds(again) == without_seconds(wanted)
    assert len(file.read_text().splitlines()) == 4


def test_answers_are_sought_among_the_sets_own_classes(root, tiny_root, tmp_path, monkeypatch):
    """The same images as in ImageNet's test split; two classes to confuse in place of four."""
    measured = []
    evaluate = classifier.evaluate

    def noting(method, params, context, grid, view, reader):
        result = evaluate(method, params, context, grid, view, reader)
        if not grid:  # zero-shot; images of a class that is not among them do not occur there
            logits = np.asarray(view.arrays["original_bd"][view.image_n] @ context.text_kd.T)
            among = [0, 1, 2, 3] if view.among_k is None else np.flatnonzero(view.among_k).tolist()
            right = np.array(among)[logits[:, among].argmax(1)] == view.label_n
            measured.append((among, result.accuracy, 100 * right.mean()))
        return result

    monkeypatch.setattr(classifier, "evaluate", noting)
    run = config(root, tiny_root, tmp_path / "cache", selection="fixed", alpha=0.0)
    rows = experiment.run(run, tmp_path / "run")
    assert sorted(among for among, _, _ in measured) == [[0, 1, 2, 3], [1, 2]]
    for _, accuracy, wanted in measured:
        assert accuracy == pytest.approx(wanted)
    assert len({float(accuracy) for _, accuracy, _ in measured}) == 2
    # At alpha 0 SAFE is zero-shot, there as here.
    by_key = {(row.dataset, row.method): row.accuracy for row in rows}
    assert by_key["imagenet_a", "safe"] == by_key["imagenet_a", "zero_shot"]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        # As the command line gives a,b.
        ({"transfer": ("imagenet_a,imagenet_b",)}, "'imagenet_b' is not one of imagenet_v2,"),
        ({"eval_split": "val"}, "evaluates on test images: set"),
        ({"dataset": "mine", "split_file": "x.json"}, "tuned on ImageNet .*, not on mine"),
    ],
)
def test_mistakes_have_one_line(root, tiny_root, tmp_path, knobs, message):
    if "split_file" in knobs:
        rows = [["a", 0, "x"]]
        content = {"train": rows, "val": rows, "test": rows}
        (tmp_path / "x.json").write_text(json.dumps(content))
        knobs = knobs | {"split_file": str(tmp_path / "x.json"), "image_dir": "x"}
    with pytest.raises(InputError, match=message):
        experiment.run(config(root, tiny_root, tmp_path, **knobs), tmp_path / "run")
