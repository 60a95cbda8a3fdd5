"""A classifier's folder: what is loaded is what was saved, and nothing else is taken for it."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from safe_jax import SafeClassifier, backbones
from safe_jax.checkpoints import files as torch_files
from safe_jax.classifier import artifact
from safe_jax.clip import convert
from safe_jax.experiment import keep
from safe_jax.methods.catalogue import METHODS
from safe_jax.runtime.errors import InputError
from tests import tiny
from tests.commands import ROOT

pytestmark = pytest.mark.usefixtures("one_device")

FILES = ["README.md", "classifier.json", "model.safetensors"]


@pytest.fixture(scope="module")
def folder_of(kept, tmp_path_factory):
    """A function from a method's name to the folder of its classifier: read it only."""
    root = tmp_path_factory.mktemp("saved")

    def folder_of(name):
        if not (root / name).exists():
            artifact.save(kept[name], root / name)
        return root / name

    return folder_of


@pytest.fixture
def folder(folder_of, tmp_path):
    """SAFE's folder, to be spoilt."""
    return shutil.copytree(folder_of("safe"), tmp_path / "spoilt")


@pytest.mark.parametrize("name", METHODS)
def test_what_is_loaded_is_what_was_saved(kept, folder_of, pixels_bhwc, name):
    saved, loaded = kept[name], artifact.load(folder_of(name))
    np.testing.assert_array_equal(loaded.logits(pixels_bhwc), saved.logits(pixels_bhwc))
    assert loaded.temperature == saved.temperature
    assert loaded.making == saved.making
    assert loaded.backbone == saved.backbone
    assert loaded.classifier.method == saved.classifier.method
    assert loaded.classifier.point == saved.classifier.point
    assert list(loaded.classifier.point) == list(saved.classifier.point)  # logits take them so
    assert loaded.classifier.origin == saved.classifier.origin
    assert loaded.classes == saved.classes
    for mine, its in (
        (loaded.classifier.params, saved.classifier.params),
        (loaded.classifier.context, saved.classifier.context),
        (loaded.earlier_pool, saved.earlier_pool),
    ):
        assert jax.tree.structure(mine) == jax.tree.structure(its)
        jax.tree.map(np.testing.assert_array_equal, mine, its)


@pytest.mark.parametrize("name", ["safe", "safe_a_f"])
def test_saved_again_it_has_the_same_bytes(kept, folder_of, tmp_path, name):
    """So has what was loaded: nothing is lost on the way."""
    artifact.save(kept[name], tmp_path / "again" / name)
    artifact.save(artifact.load(folder_of(name)), tmp_path / "loaded" / name)
    for folder in (tmp_path / "again" / name, tmp_path / "loaded" / name):
        assert sorted(file.name for file in folder.iterdir()) == FILES
        for file in FILES:
            assert (folder / file).read_bytes() == (folder_of(name) / file).read_bytes()


ELSEWHERE = """
import sys
import numpy as np
from safe_jax import SafeClassifier
classifier = SafeClassifier.load(sys.argv[1])
probability_nk = classifier.predict_proba(sys.argv[2:])
np.save("found.npy", probability_nk)
print([name for name in ("sklearn", "torch", "tensorflow") if name in sys.modules])
"""


def test_the_folder_alone_gives_the_same_answers_elsewhere(folder_of, tiny_root, tmp_path):
    """In another process, folder and home, with no weights but those in the classifier's folder."""
    moved = shutil.copytree(folder_of("safe_a"), tmp_path / "moved")
    for file in moved.iterdir():
        assert os.fsencode(tiny_root) not in file.read_bytes()
    pictures = [tiny_root / "patches" / "images" / name / "test_00.jpg" for name in tiny.COLOURS]
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, "../moved", *map(str, pictures)],
        cwd=home, env=os.environ | {"HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "[]\n"
    assert [file.name for file in home.iterdir()] == ["found.npy"]
    here_nk = SafeClassifier.load(folder_of("safe_a")).predict_proba(pictures)
    np.testing.assert_array_equal(np.load(home / "found.npy"), here_nk)
    assert np.ptp(here_nk, axis=0).max() > 0.01  # the pictures matter


def test_the_description_says_what_it_is_and_how_it_was_made(every_method, kept, folder_of):
    described = json.loads((folder_of("safe_a") / "classifier.json").read_text())
    assert described["format"] == 2
    assert described["method"] == "safe_a"
    assert described["classes"] == ["red", "green", "blue", "dark grey"]
    assert described["templates"] == ["a photo of a {} thing."]
    assert described["prompts"] == [[f"a photo of a {c} thing."] for c in described["classes"]]
    backbone, metadata = described["backbone"], every_method.trial.shared.metadata
    assert (backbone["name"], backbone["digest"]) == ("clip_tiny", metadata.digest)
    assert (backbone["family"], backbone["config"]) == (
        "clip",
        metadata.config.model_dump(mode="json"),
    )
    assert (backbone["trunk_dtype"], backbone["dense_dtype"]) == ("float32", "float16")
    row = every_method.rows["safe_a"]
    assert [described[axis] for axis in ("alpha", "a", "b")] == [row.alpha, row.a, row.b]
    assert described["axes"] == ["alpha", "b", "a"]
    assert described["temperature"] == kept["safe_a"].temperature
    making = described["making"]
    for field in ("dataset", "shots", "seed", "images", "config_hash", "selection"):
        assert making[field] == getattr(row, field)
    assert (making["train_images"], making["val_images"]) == (8, 8)
    assert making["val_accuracy"] == row.val_accuracy
    assert making["val_accuracy_zero_shot"] == zero_shot_val_accuracy(every_method.trial)
    assert (making["epochs"], making["learning_rate"]) == (3, 1e-3)  # SAFE's, whose pool it has
    assert {"safe_jax", "jax", "flax", "numpy", "pillow"} == set(described["versions"])
    assert len(described["tensors_sha256"]) == len(described["sha256"]) == 64


def zero_shot_val_accuracy(trial):
    view = trial.view(METHODS["zero_shot"], "val")
    return trial.outcomes["zero_shot"].classifier.evaluate(view, trial.shared.reader)


def test_a_class_that_got_worse_is_named(every_method, kept):
    """Counted here by class; the tiny run's SAFE unlearns some colour."""
    trial = every_method.trial
    recall = {}
    for name in ("safe", "zero_shot"):
        view = trial.view(METHODS[name], "val")
        answer_n = trial.outcomes[name].classifier.logits_of(view, trial.shared.reader).argmax(1)
        recall[name] = [100 * np.mean(answer_n[view.labels == k] == k) for k in range(4)]
    worse = {
        name: (before, after)
        for name, before, after in zip(
            kept["safe"].classes, recall["zero_shot"], recall["safe"], strict=True
        )
        if after < before
    }
    found = kept["safe"].making.worse
    assert {name: (x.zero_shot, x.tuned) for name, x in found.items()} == worse
    assert worse


def test_the_card_has_front_matter_and_the_figures(folder_of, kept):
    card = (folder_of("safe") / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    assert {name: json.loads(value) for name, value in fields.items()} == {
        "library_name": "safe_jax",
        "pipeline_tag": "image-classification",
        "tags": ["clip", "few-shot", "safe"],
        "license": "other",
        "license_name": "see-below",
    }
    making = kept["safe"].making
    assert "# safe\n" in text
    assert "4 classes apart: red, green, blue, dark grey. Made with safe_jax by [SAFE](http" in text
    assert f"{making.val_accuracy:.2f} % of 8 validation images" in text
    assert f"Worse than zero-shot: {next(iter(making.worse))} (" in text
    assert 'SafeClassifier.load("safe")' in text


def describe_anew(folder, **changed):
    """Writes the description with other fields, under a digest that holds."""
    file = folder / "classifier.json"
    described = json.loads(file.read_text()) | changed
    file.write_text(json.dumps(described | {"sha256": artifact._digest(described)}))


def edit(folder):
    file = folder / "classifier.json"
    file.write_text(file.read_text().replace('"temperature": ', '"temperature": 1'))


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "file", "message"),
    [
        (edit, "/classifier.json", " was changed after it was written: restore it, or fit again"),
        (cut, "/model.safetensors", " is cut short or was changed (its sha256 is "),
        (lambda f: (f / "model.safetensors").unlink(), "/model.safetensors", " is missing: "),
        (
            lambda f: (f / "classifier.json").unlink(),
            "",
            " holds no classifier (classifier.json): make one with `safe-jax fit PHOTOS --output ",
        ),
        (
            lambda f: (f / "classifier.json").write_text("{"),
            "/classifier.json",
            " is not JSON: ",
        ),
        (
            lambda f: (f / "classifier.json").write_text("[]"),
            "/classifier.json",
            ": []: an object is expected",
        ),
        (
            lambda f: describe_anew(f, format=1),
            "/classifier.json",
            ": format=1: this version of safe_jax reads format 2: install the version that ",
        ),
        (
            lambda f: describe_anew(f, format=[1] * 1000),
            "/classifier.json",
            ": format=[1, 1, 1, 1, 1, ",
        ),
        (
            lambda f: describe_anew(f, method="unheard_of"),
            "/classifier.json",
            ": method='unheard_of': this version of safe_jax has zero_shot, safe, ",
        ),
        (
            lambda f: describe_anew(f, temperature="warm"),
            "/classifier.json",
            ": temperature='warm': a number is expected",
        ),
    ],
    ids=[
        "edited", "cut", "no tensors", "no description", "no JSON", "a list", "format",
        "huge format", "method", "type",
    ],
)  # fmt: skip
def test_what_was_not_saved_so_is_refused_in_a_line(folder, spoil, file, message):
    spoil(folder)
    with pytest.raises(InputError) as raised:
        artifact.load(folder)
    assert str(raised.value).startswith(f"{folder}{file}{message}")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


def test_what_is_no_folder_of_a_classifier_is_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("absent", "file", "empty"):
        with pytest.raises(InputError, match=f"{name} holds no classifier"):
            artifact.load(tmp_path / name)


def test_what_is_there_already_is_kept(kept, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for name in ("folder", "file"):
        with pytest.raises(InputError, match=f"{name} exists already: remove it, or choose"):
            artifact.save(kept["zero_shot"], tmp_path / name)
    assert not list((tmp_path / "folder").iterdir())
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("at", range(len(FILES)))
def test_a_folder_is_written_whole_or_not_at_all(kept, tmp_path, monkeypatch, at):
    write = artifact.paths.write
    written = []

    def failing(file, content):
        if len(written) == at:
            raise OSError("no space left")
        written.append(file)
        write(file, content)

    monkeypatch.setattr(artifact.paths, "write", failing)
    with pytest.raises(OSError, match="no space left"):
        artifact.save(kept["zero_shot"], tmp_path / "pets")
    assert len(written) == at
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)], ids=str)
def test_tensors_keep_the_precision_of_their_checkpoint(every_method, tmp_path, pixels_bhwc, dtype):
    """Matrices are of 16 bits, as OpenAI's; the rest stays float32, and the tuned pool is."""
    trial = every_method.trial
    checkpoint = {
        name: x.astype(dtype) if x.ndim > 1 else x for name, x in trial.shared.state.items()
    }
    torch_files.write(tmp_path / "half.safetensors", checkpoint)
    convert.convert(tmp_path / "half.safetensors", tmp_path / "half")
    shared = dataclasses.replace(
        trial.shared, weights_dir=tmp_path / "half", model=backbones.load(tmp_path / "half")
    )
    classifier = keep.image_classifier(dataclasses.replace(trial, shared=shared), "safe")
    artifact.save(classifier, tmp_path / "saved")
    with safetensors.safe_open(tmp_path / "saved" / "model.safetensors", "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, x in checkpoint.items():
        assert tensors[f"backbone.{name}"].dtype == x.dtype, name
        np.testing.assert_array_equal(tensors[f"backbone.{name}"], x, err_msg=name)
    own = [x.dtype for name, x in tensors.items() if not name.startswith("backbone.")]
    assert set(own) == {np.dtype(np.float32)}
    loaded = artifact.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.logits(pixels_bhwc), classifier.logits(pixels_bhwc))
    model = loaded.backbone.model(loaded.state, tower=False)  # with the text tower
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), nnx.state(shared.model))
