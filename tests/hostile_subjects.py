"""The files that `hostile.py` damages, the smallest there are, and how each is read."""

import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from safe_jax import backbones
from safe_jax.bank import store
from safe_jax.checkpoints import files as torch_files
from safe_jax.checkpoints import state_dict, trees, weights
from safe_jax.classifier import artifact
from safe_jax.classifier.classifier import Classifier, Origin
from safe_jax.classifier.image_classifier import Backbone, ImageClassifier, Making
from safe_jax.clip.config import CLIPConfig
from safe_jax.clip.family import FAMILY
from safe_jax.data import prompts, records
from safe_jax.experiment import results
from safe_jax.methods.contract import Setting
from safe_jax.methods.safe import Safe, SafeSettings
from safe_jax.methods.text_head import TextHead
from safe_jax.runtime import devices
from safe_jax.tuning import loop
from safe_jax.tuning.train import TrainState
from tests import tiny
from tests.fake_run import rows
from tests.hostile import Subject

CONFIG = CLIPConfig(
    embed_dim=4, image_size=64, vision_layers=(1, 1, 1, 1), vision_width=2, text_width=64,
    text_layers=1, context_length=4, vocab_size=8,
)  # fmt: skip
CLASSES = "cat", "dog"
NAMES = (
    "pt", "safetensors", "weights", "classifier", "resealed", "bank", "state", "split", "prompts",
    "rows",
)  # fmt: skip


def make(root: pathlib.Path) -> dict[str, Subject]:
    """Writes the files under `root`."""
    leaves = tiny.leaves(CONFIG)
    made = {name: root / name for name in NAMES}
    for name in ("pt", "safetensors"):
        torch_files.write(made[name] / f"clip.{name}", state_dict.to_torch(FAMILY, leaves))
    made["weights"].mkdir()
    weights.save(made["weights"] / "clip", CONFIG, leaves)
    model = backbones.load(made["weights"] / "clip")
    for name in ("classifier", "resealed"):
        artifact.save(_classifier(model, leaves), made[name] / "pets")
    bank = _Bank(model, root / "images")
    bank.read(made["bank"])
    made["state"].mkdir()
    tune(made["state"] / "tuning", stop_before=4)
    for name in ("split", "prompts", "rows"):
        made[name].mkdir()
    split = {
        part: [[f"{name}/{part}.jpg", label, name] for label, name in enumerate(CLASSES)]
        for part in ("train", "val", "test")
    }
    split["boxes"] = {"cat/train.jpg": [1, 2, 30, 40.5]}
    (made["split"] / "split.json").write_text(json.dumps(split))
    texts = {name: [f"a photo of a {name}.", f"the {name}"] for name in CLASSES}
    (made["prompts"] / "prompts.json").write_text(json.dumps(texts))
    lines = [json.dumps(row) + "\n" for row in rows()[:3]]
    (made["rows"] / "results.jsonl").write_text("".join(lines))
    sealed = {"is_sealed": True}
    mended = {"is_sealed": True, "mends": True}
    return {
        "pt": Subject(made["pt"], lambda f: _checkpoint(f / "clip.pt"), **sealed),
        "safetensors": Subject(made["safetensors"], lambda f: _checkpoint(f / "clip.safetensors")),
        "weights": Subject(made["weights"], _weights, **sealed),
        "classifier": Subject(made["classifier"], _loaded, **sealed),
        "resealed": Subject(made["resealed"], _loaded_resealed),
        "bank": Subject(made["bank"], bank.read, **mended),
        "state": Subject(made["state"], lambda f: tune(f / "tuning"), **mended),
        "split": Subject(made["split"], lambda f: records.read_split_file(f / "split.json", f)),
        "prompts": Subject(made["prompts"], lambda f: prompts.read(f / "prompts.json", CLASSES)),
        "rows": Subject(made["rows"], lambda f: results.read(f / "results.jsonl")),
    }


def _digest(arrays) -> str:
    sha = hashlib.sha256()
    for name in sorted(arrays):
        x = np.asarray(arrays[name], order="C")
        sha.update(f"{name} {x.shape} {x.dtype}".encode() + x.tobytes())
    return sha.hexdigest()


def _checkpoint(file):
    converted = state_dict.from_torch(FAMILY, torch_files.read(file))
    return converted.config, _digest(converted.leaves)


def _weights(folder):
    return _digest(trees.flatten(backbones.load(folder / "clip")))


def _classifier(model, leaves) -> ImageClassifier:
    text_kd = jnp.eye(2, CONFIG.embed_dim)
    setting = Setting(model, TextHead.of(model, text_kd), None, shots=1, seed=1)
    method, params, context = Safe.start(setting, SafeSettings())
    origin = Origin("pets", "clip@0", 1, 1, "", "")
    backbone = Backbone(
        name="clip",
        digest="0" * 64,
        family="clip",
        config=CONFIG.model_dump(mode="json"),
        trunk_dtype="float32",
        dense_dtype="float16",
    )
    making = Making(
        dataset="pets", shots=1, seed=1, images="", config_hash="", train_images=2, val_images=0,
        temperature_images=0, selection="fixed",
    )  # fmt: skip
    return ImageClassifier(
        Classifier("safe", method, params, context, {"alpha": 0.5}, CLASSES, origin),
        backbone, model.image_tower(), state_dict.to_torch(FAMILY, leaves), 1.0,
        tuple((f"a {name}",) for name in CLASSES), ("a {}",), making,
    )  # fmt: skip


def _loaded(folder):
    found = artifact.load(folder / "pets")
    tensors = {name: found.state[name] for name in found.state}
    tensors |= {
        jax.tree_util.keystr(path): x
        for path, x in jax.tree_util.tree_leaves_with_path(
            (found.classifier.params, artifact._as_dict(found.classifier.context))
        )
    }
    return (
        _digest(tensors), found.classes, found.temperature, found.making, found.backbone,
        dict(found.classifier.point), found.prompts, found.templates,
    )  # fmt: skip


def _loaded_resealed(folder):
    """What whoever edits a classifier's description can do as well: compute its digest anew."""
    file = folder / "pets" / artifact.DESCRIPTION
    try:
        described = json.loads(file.read_bytes())
        described["tensors_sha256"] = hashlib.sha256(
            (folder / "pets" / artifact.TENSORS).read_bytes()
        ).hexdigest()
        described["sha256"] = artifact._digest(described)
        file.write_text(json.dumps(described))
    except (ValueError, TypeError, OSError):
        pass
    return _loaded(folder)


class _Bank:
    """A bank of two images, in a cache of its own."""

    def __init__(self, model, images: pathlib.Path):
        images.mkdir()
        for seed, name in enumerate(CLASSES):
            pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
            PIL.Image.fromarray(pixels).save(images / f"{name}.png")
        self._images, self._model = images, model
        self._mesh = devices.make_mesh(jax.devices()[:1])

    def read(self, cache: pathlib.Path) -> str:
        settings = store.BankSettings(cache_dir=str(cache), trunk_batch_size=2, workers=1)
        names = [f"{name}.png" for name in CLASSES]
        spec = store.bank_spec(settings, "digest", self._images, names, 1)
        view = store.load_or_extract(spec, self._model, self._mesh, settings)
        return _digest({name: x[:] for name, x in view.arrays.items()})


STEPS = 6


class KilledError(Exception):
    """Stands for SIGKILL."""


class Growing:
    """Steps of a few numbers, so that a tuning takes no time."""

    def step(self, state, batch):
        grown = {"w": state.params["w"] * 1.01 + batch["label_b"][0]}
        return TrainState(state.step + 1, grown, state.opt_state), grown["w"].mean()


def tune(folder: pathlib.Path, stop_before: int = STEPS) -> str | None:
    """Goes on with a tuning of six steps: the digest of its end, or None where it was killed."""

    def batches(first):
        for step in range(first, STEPS):
            if step == stop_before:
                raise KilledError
            yield {"label_b": np.array([step])}

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    state = TrainState(jnp.int32(0), {"w": jnp.arange(300.0)}, {"m": jnp.zeros(())})
    try:
        state, losses = loop.run_steps(
            jax.device_put(state, device), Growing(), STEPS, batches, folder, 2
        )
    except KilledError:
        return None
    return _digest({"w": state.params["w"], "losses": losses})
