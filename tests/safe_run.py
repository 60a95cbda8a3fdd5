"""SAFE tuned on twenty random maps: a plugin of fixtures for tests of the method and of tuning."""

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util

from safe_jax.bank.fresh_crops import FreshCrops
from safe_jax.bank.store import BankSettings
from safe_jax.bank.view import View
from safe_jax.classifier.evaluate import Reader, evaluate
from safe_jax.data import datasets
from safe_jax.methods import safe
from safe_jax.methods.contract import Recipe, Setting
from safe_jax.methods.safe import SafeSettings
from safe_jax.methods.text_head import TextHead
from safe_jax.methods.text_rows import text_rows
from safe_jax.runtime import devices
from safe_jax.tuning import fit, loop
from safe_jax.tuning.fit import Checkpoints, Job
from tests import tiny

CLASSES = 4


LABELS = np.arange(20) % CLASSES


class Run:
    """SAFE on 20 maps in batches of 8: three steps an epoch.

    `knobs` are changes of a recipe, and `blend` and `train_alpha` SAFE's.
    """

    def __init__(self, model, text_kd, images, device_count=1, every=500, **knobs):
        of_safe = {name: knobs.pop(name) for name in ("blend", "train_alpha") if name in knobs}
        few = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "warmup_epochs": 0.0}
        self.recipe = Recipe(**few | knobs)
        self.mesh = devices.make_mesh(jax.devices()[:device_count])
        self.every, self.images = every, images
        setting = Setting(model, TextHead.of(model, text_kd), None, shots=5, seed=3)
        self.start = safe.Safe.start(setting, SafeSettings(**of_safe))
        self.job = Job(self.start, images, seed=3)
        self.plan = self.job.plan(self.recipe, self.mesh)
        self.state, self.stepper = fit.start_steps(self.start, self.recipe, self.plan, self.mesh)

    def batches(self, first_step=0):
        return self.images.batches(self.plan, self.mesh, first_step)

    def step(self, state, batch):
        return self.stepper.step(state, batch)

    def run(self, folder, batches_from=None):
        """The last state and the loss of every step."""
        batches_from = batches_from or self.batches
        return loop.run_steps(
            self.state, self.stepper, self.plan.steps, batches_from, folder, self.every
        )

    def fit(self, folder):
        return fit.fit(self.job, self.recipe, self.mesh, Checkpoints.in_folder(folder, self.every))

    def evaluate(self, tuned, view, alphas):
        """Accuracy and loss at each alpha."""
        grid = {"alpha": np.asarray(alphas)}
        return evaluate(tuned.method, tuned.params, tuned.context, grid, view, Reader(self.mesh, 8))


def flat(tree):
    return {
        path: np.asarray(x)
        for path, x in traverse_util.flatten_dict(tree, sep="/").items()
        if not isinstance(x, optax.MaskedNode)
    }


@pytest.fixture(scope="module")
def text_kd(model):
    return text_rows(model, [[f"a photo of a {c} thing."] for c in tiny.COLOURS])


@pytest.fixture(scope="module")
def maps_view(model):
    """Random maps in place of images, and the original pool's features of them."""
    dense = np.random.default_rng(0).exponential(size=(20, *model.config.dense_shape))
    dense = dense.astype(np.float16)
    arrays = {"dense_bhwc": dense, "original_bd": np.asarray(model.attnpool(dense))}
    return View.of("random", arrays, LABELS)


@pytest.fixture
def make_run(model, text_kd, maps_view):
    """A function from changes of the recipe to a `Run`, on random maps or on other images."""

    def make(images=maps_view, **knobs):
        return Run(model, text_kd, images, **knobs)

    return make


@pytest.fixture
def crops(model, tiny_config):
    """Fresh crops of twenty real images."""
    data = datasets.load(tiny_config)
    settings = BankSettings(dtype="float32", workers=2)
    return FreshCrops(model, data.image_dir, data.splits.train[::2], seed=3, settings=settings)
