"""The examples of docs/deploy.md, run as they stand there."""

import dataclasses
import pathlib
import re
import sys
import types

import jax
import numpy as np
import PIL.Image
import pytest
import torch

from safe_jax import SafeClassifier, clip
from safe_jax.checkpoints import files as torch_files
from safe_jax.classifier import artifact, export
from safe_jax.data import photos
from safe_jax.estimator import fit
from safe_jax.runtime import devices
from tests.commands import ROOT
from tools import torch_clip

pytestmark = [
    pytest.mark.filterwarnings("ignore:'.value' access:DeprecationWarning"),  # jax2onnx's
    # The examples open files in passing.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TEMPERATURE = 0.3


def example(name):
    """The code below a heading of docs/deploy.md."""
    section = (ROOT / "docs" / "deploy.md").read_text().split(f"\n## {name}\n")[1]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """As `one_device` of conftest.py, for what a module shares and what names its devices."""
    mesh = devices.make_mesh(jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "make_mesh", lambda devices=None: mesh)
        yield


@pytest.fixture(scope="module")
def pets(tiny_root, tmp_path_factory):
    """A folder with a classifier `pets`, at alpha 1, and an image `cat.jpg`."""
    folder = tmp_path_factory.mktemp("deploy")
    data = tiny_root / "patches"
    settings = fit.FitSettings(
        weights=str(tiny_root / "clip_tiny"), epochs=2, learning_rates=(1e-3,),
        cache_dir=str(folder / "cache"), templates=("a {} thing.", "some {} thing."),
    )  # fmt: skip
    classifier = fit.fit(photos.read(data / "split.json", data / "images"), settings)
    inner = dataclasses.replace(classifier.classifier, point={"alpha": 1.0})
    # Two epochs leave probabilities nearly even: a low temperature sets them apart.
    sharp = dataclasses.replace(classifier, classifier=inner, temperature=TEMPERATURE)
    artifact.save(sharp, folder / "pets")
    with PIL.Image.open(data / "images" / "red" / "test_00.jpg") as image:
        image.resize((231, 150)).save(folder / "cat.jpg")
    return folder


@pytest.fixture
def wanted(pets, monkeypatch):
    """The classifier and its probabilities; the working folder is that of the examples."""
    monkeypatch.chdir(pets)
    classifier = SafeClassifier.load("pets")
    wanted_nk = classifier.predict_proba(["cat.jpg"])
    assert np.ptp(wanted_nk) > 0.2
    return classifier.classifier_, wanted_nk


def run(name, capsys):
    """The probabilities that an example computes; what it prints is checked with them."""
    found = {}
    exec(example(name), found)
    probability_nk = np.asarray(found["probabilities"])
    label, probability = capsys.readouterr().out.split()
    classes = artifact.read_description(pathlib.Path("pets")).classes
    assert label == classes[probability_nk[0].argmax()]
    assert abs(float(probability) - probability_nk.max()) < 1e-6
    return probability_nk


@pytest.mark.parametrize(
    ("name", "file"), [("ONNX Runtime", "pets.onnx"), ("JAX alone", "pets.stablehlo")]
)
def test_a_file_gives_the_classifiers_probabilities(name, file, wanted, capsys, pets):
    classifier, wanted_nk = wanted
    export.export(classifier, pets / file)
    np.testing.assert_allclose(run(name, capsys), wanted_nk, atol=1e-4)


class StandIn(torch.nn.Module):
    """What `clip.model.build_model` gives, as far as the example uses it: parameters in float16."""

    def __init__(self, state):
        super().__init__()
        self.names = list(state)
        for name, x in state.items():
            self.register_buffer(name.replace(".", "/"), x.half())
        cells = len(state["visual.attnpool.positional_embedding"]) - 1
        self.visual = types.SimpleNamespace(input_resolution=32 * round(cells**0.5))

    def load_state_dict(self, state):
        super().load_state_dict({name.replace(".", "/"): x for name, x in state.items()})

    @property
    def state(self):
        return {name: getattr(self, name.replace(".", "/")) for name in self.names}

    def encode_image(self, images_bchw):
        return torch_clip.pool(self.state, torch_clip.dense(self.state, images_bchw))

    def encode_text(self, tokens_bt):
        return torch_clip.text(self.state, tokens_bt)


def test_torch_gives_the_classifiers_probabilities_but_for_rounding(
    wanted, capsys, pets, monkeypatch
):
    classifier, wanted_nk = wanted
    torch_files.write(pets / "pets.pt", export.tuned_state(classifier))
    package, module = types.ModuleType("clip"), types.ModuleType("clip.model")
    module.build_model = StandIn
    package.model = module
    package.tokenize = lambda texts: torch.tensor(np.asarray(clip.tokenize(texts)))
    monkeypatch.setitem(sys.modules, "clip", package)
    monkeypatch.setitem(sys.modules, "clip.model", module)
    np.testing.assert_allclose(run("torch", capsys), wanted_nk, atol=1e-3)
