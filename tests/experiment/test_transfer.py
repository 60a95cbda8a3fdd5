"""A part of ImageNet made of coloured patches: what is tuned on it is evaluated elsewhere."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from safe_jax import report
from safe_jax.classifier import classifier
from safe_jax.data import datasets, imagenet
from safe_jax.data.datasets import DataSettings
from safe_jax.experiment import compare
from safe_jax.experiment import run as experiment
from safe_jax.methods.catalogue import METHODS
from safe_jax.methods.text_head import TextHead
from safe_jax.methods.text_rows import text_rows
from safe_jax.runtime.errors import InputError
from tests import tiny

WNIDS = list(imagenet.benchmark_classes())[10:14]
OF_EUROSAT = {"blue": "river", "red": "Annual_Crop_Land", "green": "forest"}  # by colour

pytestmark = pytest.mark.usefixtures("one_device_throughout")


@pytest.fixture(scope="module")
def root(tiny_root, tmp_path_factory):
    """ImageNet with the patches' four colours as classes, ImageNet-A with copies of two of them.

    EuroSAT has three classes of its own, with the test images of three colours.
    """
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
    content = {part: [] for part in ("train", "val", "test")}
    for label, (colour, name) in enumerate(OF_EUROSAT.items()):
        shutil.copytree(tiny_root / "patches" / "images" / colour, root / "eurosat" / "2750" / name)
        for number in range(3 * label + 1):  # few enough to see which class is answered
            content["test"].append([f"{name}/test_{number:02}.jpg", label, name])
        content["train"].append([f"{name}/train_00.jpg", label, name])
        content["val"].append([f"{name}/val_00.jpg", label, name])
    (root / "eurosat" / "split_zhou_EuroSAT.json").write_text(json.dumps(content))
    return root


def config(root, tiny_root, cache, **knobs):
    config = tiny.config(tiny_root, dataset="imagenet", image_dir="", split_file="")
    config.update(
        data_root=str(root), cache_dir=str(cache), transfer=("imagenet_a",), shots=(4,), epochs=4
    )
    config.update(knobs)
    return config


@pytest.fixture(scope="module")
def crossed(root, tiny_root, tmp_path_factory):
    """Methods with and without an answer for other classes, on ImageNet-A and on EuroSAT."""
    folder = tmp_path_factory.mktemp("crossed")
    trials = {}
    row = compare.row

    def noting(trial, name):
        trials[name] = trial
        return row(trial, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "row", noting)
        found = experiment.run(
            config(
                root, tiny_root, folder / "cache", transfer=("imagenet_a,eurosat",),
                methods=("zero_shot", "safe", "tip_adapter"),
            ),
            folder / "run",
        )  # fmt: skip
    return folder / "run", {(one.dataset, one.method): one for one in found}, trials["safe"]


def test_what_is_tuned_is_evaluated_elsewhere(crossed):
    _, rows, _ = crossed
    assert list(rows) == [
        ("imagenet_a", "zero_shot"), ("eurosat", "zero_shot"), ("imagenet", "zero_shot"),
        ("imagenet_a", "safe"), ("eurosat", "safe"), ("imagenet", "safe"),
        ("imagenet_a", "tip_adapter"), ("imagenet", "tip_adapter"),
    ]  # fmt: skip
    elsewhere, own = rows["imagenet_a", "safe"], rows["imagenet", "safe"]
    assert elsewhere.tuned_on == "imagenet"
    assert own.tuned_on is None
    assert elsewhere.alpha == own.alpha
    for field in ("shots", "seed", "split", "selection", "config_hash", "weights", "images"):
        assert getattr(elsewhere, field) == getattr(own, field)


@pytest.mark.parametrize("name", ["zero_shot", "safe"])
def test_another_data_set_is_classified_among_its_classes_by_its_prompts(crossed, name):
    _, rows, trial = crossed
    classifier, shared = trial.outcomes[name].classifier, trial.shared
    names = [name.replace("_", " ") for name in OF_EUROSAT.values()]
    prompts = [[f"a centered satellite photo of {name}."] for name in names]
    head = TextHead.of(shared.model, text_rows(shared.model, prompts))
    of_eurosat = dataclasses.replace(classifier, context=head)
    logits_nk = of_eurosat.logits_of(trial.view(METHODS[name], "eurosat"), shared.reader)
    label_n = np.repeat([0, 1, 2], [1, 4, 7])
    row = rows["eurosat", name]
    assert row.accuracy == pytest.approx(100 * np.mean(logits_nk.argmax(1) == label_n))
    assert (row.tuned_on, row.alpha) == ("imagenet", rows["imagenet", name].alpha)
    assert row.closed_set is None


def test_a_method_of_single_classes_has_no_answer_for_others_and_says_so(crossed):
    workdir, rows, _ = crossed
    row = rows["imagenet", "tip_adapter"]
    assert row.closed_set == compare.CLOSED_SET
    assert ("imagenet_a", "tip_adapter") in rows  # the same classes
    assert ("eurosat", "tip_adapter") not in rows
    tables = report.tables(list(rows.values())).split("\n\n")
    assert [table.partition(",")[0] for table in tables] == [
        "imagenet", "imagenet_a (tuned on imagenet)", "eurosat (tuned on imagenet)",
    ]  # fmt: skip
    lines = [line.split() for line in tables[2].splitlines()]
    assert ["Tip-Adapter", "-"] in lines
    assert "published" not in tables[2]  # the weights are others
    assert f"(Tip-Adapter: {compare.CLOSED_SET})" in tables[2]
    report.write([workdir], workdir / "report.html")
    html = (workdir / "report.html").read_text()
    assert html.count(f"Tip-Adapter: {compare.CLOSED_SET}.") == 2  # of ImageNet and of EuroSAT


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
        (
            {"dataset": "dtd", "split_file": "x.json", "transfer": ("eurosat", "dtd")},
            "config.transfer: dtd is what is tuned on",
        ),
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


@pytest.mark.parametrize(
    ("knobs", "name", "tfds"),
    [
        ({}, "eurosat", ""),
        ({"tfds": "imagenet2012"}, "eurosat", "eurosat"),
        ({"tfds": "imagenet2012"}, "ucf101", ""),  # which TFDS does not have
    ],
)
def test_another_data_set_has_its_own_place_and_prompts(knobs, name, tfds):
    ours = {"image_dir": "x", "split_file": "y"} if not knobs else {}
    given = DataSettings(templates=("a {}.",), prompts_file="z", data_root="r", **ours, **knobs)
    found = datasets.cross_settings(given, name)
    assert (found.dataset, found.data_root, found.tfds) == (name, "r", tfds)
    assert (found.image_dir, found.split_file, found.prompts_file) == ("", "", "")
    assert found.templates == ()
