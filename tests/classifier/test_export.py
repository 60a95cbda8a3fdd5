"""A classifier in other software: JAX alone, ONNX Runtime, and a CLIP in torch.

Axes: b images, k classes.
"""

import dataclasses
import pathlib
import re
import sys

import jax
import numpy as np
import onnxruntime
import pytest
import torch

from safe_jax import clip
from safe_jax.checkpoints import files as torch_files
from safe_jax.checkpoints import state_dict
from safe_jax.classifier import artifact, export
from safe_jax.data.preprocessing import normalize
from safe_jax.methods.catalogue import METHODS
from safe_jax.runtime.errors import InputError
from tests.clip.parity import relative, to_torch
from tests.in_process import safe_jax
from tools import torch_clip

pytestmark = pytest.mark.usefixtures("one_device")


def with_backbone(classifier, **changed):
    """The same with another precision; a trunk's changes the tower as well."""
    backbone = classifier.backbone.model_copy(update=changed)
    tower = backbone.model(classifier.state)
    return dataclasses.replace(classifier, backbone=backbone, tower=tower)


def at_alpha(classifier, alpha):
    inner = dataclasses.replace(classifier.classifier, point={"alpha": alpha})
    return dataclasses.replace(classifier, classifier=inner)


def assert_gives_its_probabilities(exported, classifier, pixels_bhwc):
    """For batches of one image and of three; and logits within 1e-4 of the largest.

    Probabilities tell logits but for a constant.
    """
    wanted_bk = np.asarray(classifier.probabilities(pixels_bhwc))
    logits_bk = np.asarray(classifier.logits(pixels_bhwc))
    for count in (1, 3):
        found_bk = np.asarray(exported(pixels_bhwc[:count]))
        assert found_bk.shape == (count, len(classifier.classes))
        np.testing.assert_allclose(found_bk, wanted_bk[:count], atol=1e-4)
        difference_bk = classifier.temperature * np.log(found_bk) - logits_bk[:count]
        difference_bk -= difference_bk.mean(1, keepdims=True)
        assert abs(difference_bk).max() < 1e-4 * abs(logits_bk).max()
    assert np.ptp(wanted_bk, axis=0).max() > 5e-3  # the pictures matter


def test_stablehlo_gives_the_probabilities(kept, tmp_path, pixels_bhwc):
    """Of a cache on top of two pools; tests/test_deploy.py has SAFE."""
    # In float16 a map's last bit may round otherwise, and logits part by more than rounding.
    exact = with_backbone(kept["safe_a"], dense_dtype="float32")
    classifier = dataclasses.replace(exact, temperature=0.9)
    file = tmp_path / "pets.stablehlo"
    difference = export.export(classifier, file)
    assert difference < 1e-5
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    (pixels,) = exported.in_avals
    assert (pixels.dtype, pixels.shape[1:]) == (np.uint8, (64, 64, 3))
    assert_gives_its_probabilities(exported.call, classifier, pixels_bhwc)


def test_the_command_writes_onnx_of_any_batch_size(kept, tmp_path, pixels_bhwc):
    exact = with_backbone(kept["safe"], dense_dtype="float32")
    classifier = dataclasses.replace(exact, temperature=0.9)
    artifact.save(classifier, tmp_path / "pets")
    file = tmp_path / "made" / "pets.onnx"
    cache = f"--cache-dir={tmp_path / 'cache'}"
    code, printed, logged = safe_jax("export", tmp_path / "pets", file, cache)
    assert code == 0
    assert printed.startswith(f"{file}: probabilities differ from the classifier's by at most ")
    assert printed.count("\n") == 1
    assert "Traceback" not in logged
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,), (gives,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("pixels", "tensor(uint8)", [64, 64, 3])
    assert gives.name == "probabilities"

    def call(pixels_bhwc):
        return session.run(None, {"pixels": pixels_bhwc})[0]

    assert_gives_its_probabilities(call, classifier, pixels_bhwc)


def test_maps_are_rounded_without_casts(kept, pixels_bhwc):
    """jax2onnx drops a pair of casts, and the rounding with it."""
    function = export._probabilities(kept["safe"])
    text = str(jax.make_jaxpr(function)(pixels_bhwc))
    assert re.search(r"reduce_precision\[\s*exponent_bits=5\s*mantissa_bits=10", text)
    assert "f16" not in text.replace("bf16", "")


def test_onnx_of_a_trunk_in_bfloat16_computes_in_float32(kept, monkeypatch, tmp_path, caplog):
    """ONNX Runtime has no such operators. What is computed in float32 is written."""
    classifier = with_backbone(kept["safe"], trunk_dtype="bfloat16")
    seen = []

    def noting(classifier):
        seen.append(classifier)
        return b"of float32"

    monkeypatch.setattr(export, "_onnx", noting)
    monkeypatch.setattr(export, "_onnx_runtime", lambda content: kept["safe"].probabilities)
    assert export.export(classifier, tmp_path / "pets.onnx") < 1e-6
    assert (tmp_path / "pets.onnx").read_bytes() == b"of float32"
    assert seen[0].backbone == kept["safe"].backbone
    assert "computes in bfloat16, which ONNX Runtime does not" in caplog.text


def torch_logits(file, prompts, pixels_bhwc):
    """What CLIP in torch makes of the state dict in a file, of one sentence a class."""
    state = torch.load(file, weights_only=True)
    state = {name: x.float() for name, x in state.items()}
    with torch.no_grad():
        dense_bchw = torch_clip.dense(state, to_torch(normalize(pixels_bhwc)))
        feature_bd = torch_clip.pool(state, dense_bchw)
        tokens = clip.tokenize([sentence for (sentence,) in prompts])
        text_kd = torch_clip.text(state, torch.from_numpy(tokens).long())
        cosine_bk = (
            torch.nn.functional.normalize(feature_bd) @ torch.nn.functional.normalize(text_kd).mT
        )
        return (state["logit_scale"].exp() * cosine_bk).numpy()


@pytest.mark.parametrize("name", ["safe", "prolip", "zero_shot"])
def test_a_clip_in_torch_with_the_state_dict_gives_the_logits(kept, tmp_path, pixels_bhwc, name):
    """The classifier's maps are float32 here, as torch's are; in float16 its logits are near."""
    classifier = at_alpha(kept[name], 1.0) if name == "safe" else kept[name]
    exact = with_backbone(classifier, dense_dtype="float32")
    assert export.export(exact, tmp_path / "pets.pt") < 1e-4
    found_bk = torch_logits(tmp_path / "pets.pt", exact.prompts, pixels_bhwc)
    assert relative(exact.logits(pixels_bhwc), found_bk) < 1e-4
    assert relative(classifier.logits(pixels_bhwc), found_bk) < 1e-3
    if name == "safe":
        assert relative(at_alpha(exact, 0.0).logits(pixels_bhwc), found_bk) > 1e-2


def test_only_the_pool_is_another_in_a_state_dict(kept, tmp_path):
    export.export(at_alpha(kept["safe"], 1.0), tmp_path / "pets.safetensors")
    state = torch_files.read(tmp_path / "pets.safetensors")
    assert state.keys() == kept["safe"].state.keys()
    other = {name for name, x in kept["safe"].state.items() if not np.array_equal(x, state[name])}
    assert other
    assert all(name.startswith("visual.attnpool.") for name in other)


def test_a_blend_has_no_state_dict_but_the_tuned_pool_has(kept, tmp_path):
    file = tmp_path / "pets.pt"
    with pytest.raises(InputError, match=r"alpha is 0\.25: .* blends two pools, .* --tuned-pool$"):
        export.export(kept["safe"], file)
    assert not list(tmp_path.iterdir())
    assert export.export(kept["safe"], file, tuned_pool=True) < 1e-4
    export.export(at_alpha(kept["safe"], 1.0), tmp_path / "at_1.pt")
    found, wanted = torch_files.read(file), torch_files.read(tmp_path / "at_1.pt")
    for name, x in wanted.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)


def test_a_trunk_in_bfloat16_has_a_state_dict(kept, tmp_path):
    """It is compared in the classifier's precision: float32 would differ by more than rounding."""
    classifier = with_backbone(kept["zero_shot"], trunk_dtype="bfloat16")
    assert export.export(classifier, tmp_path / "pets.pt") < 1e-4


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name not in ("zero_shot", "safe", "prolip")]
)
def test_what_no_clip_holds_has_no_state_dict(kept, tmp_path, name):
    label = METHODS[name].label
    with pytest.raises(InputError) as raised:
        export.export(kept[name], tmp_path / "pets.pt", tuned_pool=True)
    assert str(raised.value) == (
        f"a CLIP's state dict has no place for what {label} tunes: export .onnx or .stablehlo"
    )
    assert not list(tmp_path.iterdir())


def test_an_export_that_differs_is_not_written(kept, tmp_path, monkeypatch):
    classifier = kept["safe_a"]
    uniform_k = np.full(len(classifier.classes), 1 / len(classifier.classes))

    def wrong(pixels_bhwc):
        return np.tile(uniform_k, (len(pixels_bhwc), 1))

    def nan_alone(pixels_bhwc):
        probability_bk = np.array(classifier.probabilities(pixels_bhwc))
        return probability_bk if len(pixels_bhwc) > 1 else np.nan * probability_bk

    monkeypatch.setattr(export, "_onnx", lambda classifier: b"wrong")
    for exported in (wrong, nan_alone):
        monkeypatch.setattr(export, "_onnx_runtime", lambda content, e=exported: e)
        with pytest.raises(InputError, match=r"pets\.onnx was not written: .* differs by "):
            export.export(classifier, tmp_path / "pets.onnx")
    # The pool's tensors with no tuning; SAFE's logits are at alpha 1.
    monkeypatch.setattr(state_dict, "to_torch", lambda family, leaves: {})
    with pytest.raises(InputError, match=r"pets\.pt was not written: .* differs by "):
        export.export(kept["safe"], tmp_path / "pets.pt", tuned_pool=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["jax2onnx", "onnxruntime"])
def test_what_onnx_needs_is_named_in_a_line(kept, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    if module == "onnxruntime":
        monkeypatch.setattr(export, "_onnx", lambda classifier: b"")
    with pytest.raises(InputError) as raised:
        export.export(kept["safe"], tmp_path / "pets.onnx")
    assert str(raised.value) == (
        f"ONNX needs {module}, which is not installed: pip install 'safe_jax[onnx]'"
    )
    assert not list(pathlib.Path(tmp_path).iterdir())
