"""A SigLIP in use: converted, fitted, asked, evaluated, exported, as a CLIP is."""

import json

import numpy as np
import PIL.Image
import pytest

from safe_jax import backbones
from safe_jax.checkpoints import files
from safe_jax.classifier import artifact
from safe_jax.data import images
from safe_jax.data.preprocessing import normalize
from tests import tiny
from tests.in_process import safe_jax


@pytest.fixture(scope="module")
def fitted(siglip, tiny_root, tmp_path_factory):
    """The folder of a classifier that the command fitted on pictures of coloured patches."""
    folder = tmp_path_factory.mktemp("fitted") / "pets"
    ended = safe_jax(
        "fit", photos(tiny_root, folder.parent), "--weights", siglip[2], "--output", folder,
        "--cache-dir", folder.parent / "cache", "--epochs", "20", "--learning-rates", "1e-2",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return folder


def photos(tiny_root, parent):
    """The data set's images in a folder a class."""
    for name in tiny.COLOURS:
        for number in range(6):
            source = tiny_root / "patches" / "images" / name / f"train_{number:02}.jpg"
            target = parent / "photos" / name / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return parent / "photos"


def test_the_command_converts_and_converts_back(siglip, tmp_path):
    hub, _, _ = siglip
    ended = safe_jax("convert", hub, tmp_path / "orbax")
    assert (ended.code, ended.out) == (0, f"wrote {tmp_path / 'orbax'}\n")
    back = tmp_path / "back.safetensors"
    assert safe_jax("convert", "--to-torch", tmp_path / "orbax", back).code == 0
    given, found = files.read(hub / "model.safetensors"), files.read(back)
    assert found.keys() == given.keys() | {"tokenizer.json"}
    for name, x in given.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)
    assert found["tokenizer.json"].tobytes() == (hub / "tokenizer.json").read_bytes()


def test_a_classifier_is_evaluated_and_answers(fitted, tiny_root):
    picture = tiny_root / "patches" / "images" / "red" / "test_00.jpg"
    ended = safe_jax("predict", fitted, picture, "--output", fitted.parent / "answers.jsonl")
    assert ended.code == 0, ended.err
    classifier = artifact.load(fitted)
    assert classifier.backbone.family == "siglip"
    pixels = images.load(images.Crop(picture), classifier.preprocessing, (1, 1))
    probability_k = np.asarray(classifier.probabilities(pixels[None]))[0]
    answer = json.loads((fitted.parent / "answers.jsonl").read_text())
    assert answer["label"] == classifier.classes[probability_k.argmax()]
    ended = safe_jax(
        "evaluate", fitted, fitted.parent / "photos", "--output", fitted.parent / "found.json"
    )
    assert ended.code == 0, ended.err
    assert json.loads((fitted.parent / "found.json").read_text())["accuracy"] > 50


def test_attention_sums_to_one_and_moves_with_tuning(fitted):
    classifier = artifact.load(fitted)
    dense_bhwc, _ = classifier.maps(
        np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    )
    maps = classifier.attention(dense_bhwc)
    for x_bhw in maps.values():
        np.testing.assert_allclose(x_bhw.sum((1, 2)), 1, rtol=1e-5)
    assert abs(maps["tuned"] - maps["original"]).max() > 1e-3


@pytest.mark.parametrize("suffix", ["onnx", "stablehlo"])
def test_an_export_agrees(fitted, suffix, tmp_path):
    ended = safe_jax("export", fitted, tmp_path / f"pets.{suffix}")
    assert ended.code == 0, ended.err
    assert (tmp_path / f"pets.{suffix}").stat().st_size > 0


def test_other_classes_are_asked_for_by_their_prompts(fitted):
    classifier = artifact.load(fitted)
    other = classifier.among(["cat", "dog"], [["a photo of a cat."], ["a photo of a dog."]])
    assert other.probabilities(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 2)


def test_pixels_are_those_of_the_processor(siglip, tmp_path):
    """Bit for bit of the 8-bit pixels; `transformers` normalises them in another order."""
    import transformers

    rng = np.random.default_rng(0)
    for size in ((90, 70), (40, 120), (64, 64)):
        image = PIL.Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))
        for resample, interpolation in ((3, "bicubic"), (2, "bilinear")):
            preprocessing = backbones.read_metadata(siglip[2]).config.preprocessing
            preprocessing = preprocessing.model_copy(update={"interpolation": interpolation})
            processor = transformers.SiglipImageProcessorPil(
                size={"height": 64, "width": 64}, resample=resample
            )
            theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
            found = normalize(images.whole(image, preprocessing), preprocessing)
            np.testing.assert_allclose(found, theirs, atol=1e-6)
