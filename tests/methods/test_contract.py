"""The contract of `methods/contract.py`, over every method and the tests' stand-in."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import default
from safe_jax.classifier.evaluate import logits_step
from safe_jax.experiment import knobs
from safe_jax.methods import catalogue
from safe_jax.methods.catalogue import METHODS
from safe_jax.methods.contract import ARRAYS, Grid, Knobs, Recipe, Start
from safe_jax.methods.text_head import TextHead
from safe_jax.runtime import schema
from safe_jax.tuning import train
from tests.commands import ROOT
from tests.fake_features import CLASSES, COUNT, setting
from tests.stand_ins import Earlier, Scaled

NAMES = (*METHODS, "scaled")

compiled_gradients = jax.jit(train.loss_and_grads, static_argnames="method")


@pytest.fixture(autouse=True)
def _with_the_stand_in(monkeypatch):
    monkeypatch.setitem(catalogue.METHODS, "scaled", Scaled)


@dataclasses.dataclass(frozen=True)
class Begun:
    """A method before its first step, and whatever it was started with."""

    start: Start
    settings: schema.Model
    earlier: dict
    recipe: Recipe

    @property
    def grid(self) -> Grid:
        return self.start.method.grid(self.settings, self.earlier)


@pytest.fixture
def begin(model, data):
    """A function from a method's name and changes of its settings to a `Begun`."""

    def begin(name, **changed):
        method = METHODS[name]
        config = knobs.read(default.get_config())
        settings = knobs.settings(config, name).model_copy(update=changed)
        pool = {"attnpool": nnx.to_pure_dict(nnx.state(model.attnpool))}
        earlier = {name: Earlier(pool, {"alpha": 0.25}) for name in method.after}
        start = method.start(setting(model, data, earlier=earlier), settings)
        (recipe,) = knobs.recipes(config, name)
        return Begun(start, settings, earlier, recipe)

    return begin


@pytest.mark.parametrize("name", NAMES)
def test_declarations_have_known_names_and_types(name):
    method = METHODS[name]
    assert isinstance(method.label, str)
    assert method.label.strip()
    assert issubclass(method.knobs, Knobs)
    assert issubclass(method.settings, schema.Model)
    for names, known in (
        (method.takes, ARRAYS),
        (method.shares, METHODS),
        (method.after, METHODS),
    ):
        assert isinstance(names, tuple)
        assert set(names) <= set(known)
    assert method.takes
    assert name not in (*method.shares, *method.after)
    for flag in (method.tunes, method.needs_bank, method.open_classes, method.blends):
        assert isinstance(flag, bool)
    if "tuned_bd" in method.takes:  # computed by the pool that the first of `after` tuned
        assert METHODS[method.after[0]].blends
    for field, declared in method.knobs.model_fields.items():
        assert declared.description, f"{field} has no meaning for the help text"


def test_methods_stand_after_those_that_they_need():
    order = list(METHODS)
    for name in order:
        assert all(order.index(earlier) < order.index(name) for earlier in METHODS[name].after)
    labels = [method.label for method in METHODS.values()]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", NAMES)
def test_the_config_has_every_setting_of_a_method(name):
    config = default.get_config()
    own = set(METHODS[name].knobs.model_fields)
    assert own == set(config.to_dict().get(name, {}))
    of_groups = own.union(*(config[shared] for shared in METHODS[name].shares))
    assert set(METHODS[name].settings.model_fields) <= set(config) | of_groups
    read = knobs.read(config)
    assert isinstance(knobs.settings(read, name), METHODS[name].settings)
    assert set(knobs.method_knobs(read, name)) == of_groups


def test_declarations_load_no_jax():
    code = (
        "import sys; from safe_jax.methods import catalogue; "
        "print(len(catalogue.METHODS), [m for m in ('jax', 'flax', 'optax') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stderr == ""
    assert process.stdout.split(maxsplit=1) == [str(len(METHODS) - 1), "[]\n"]


@pytest.mark.parametrize("name", NAMES)
def test_equal_settings_give_equal_hashable_methods(begin, name):
    """A method is compiled into a step: an equal one must find the step that was compiled."""
    one, other = begin(name).start.method, begin(name).start.method
    assert one == other
    assert hash(one) == hash(other)
    assert isinstance(one, METHODS[name])
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.label = "another"


@pytest.mark.parametrize("name", NAMES)
def test_the_context_is_of_the_kind_that_is_declared(begin, name):
    """A classifier is loaded by it; where other classes can be asked for, it has rows of text."""
    method, context = METHODS[name], begin(name).start.context
    if method.context is None:
        assert isinstance(context, jax.Array)
    else:
        assert type(context) is method.context
        assert all(isinstance(x, (jax.Array, TextHead, type(None))) for x in context)
    if method.open_classes:
        assert isinstance(getattr(context, "head", context), TextHead)


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_logits_are_finite_and_of_a_batch(begin, real_batch, name):
    begun = begin(name)
    method, params, context = begun.start
    batch = {array: real_batch[array] for array in (*method.takes, "label_b", "mask_b")}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((params, context)))
    grid = begun.grid
    for at in (0, -1):
        point = [np.float32(values[at]) for values in grid.values()]
        logits_bk = logits_step(params, context, batch, point, method=method)
        assert logits_bk.shape == (COUNT, CLASSES)
        assert np.isfinite(logits_bk).all()
    if method.tunes:
        loss_b = jax.eval_shape(method.loss, params, context, batch)
        assert (loss_b.shape, loss_b.dtype) == ((COUNT,), np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_does_not_depend_on_the_rest_of_its_batch(begin, real_batch, name):
    begun = begin(name)
    method, params, context = begun.start
    point = [np.float32(values[0]) for values in begun.grid.values()]
    whole_bk = logits_step(params, context, real_batch, point, method=method)
    part = {array: x[3:8] for array, x in real_batch.items()}
    part_bk = logits_step(params, context, part, point, method=method)
    np.testing.assert_allclose(part_bk, whole_bk[3:8], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name == "scaled" or METHODS[name].tunes]
)
def test_loss_has_gradients_of_the_parameters_that_train(begin, real_batch, name):
    begun = begin(name)
    method, params, context = begun.start
    labels = train.label_params(params, begun.recipe.trainable)
    trained, frozen = train.split_params(params, labels)
    loss, grads = compiled_gradients(
        trained, train.Frozen(frozen, context), real_batch, method=method
    )
    assert np.isfinite(loss)
    leaves = jax.tree.leaves(grads)
    assert len(leaves) == jax.tree.leaves(labels).count("train")
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert sum(float(jnp.abs(leaf).sum()) for leaf in leaves) > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_grids_have_axes_of_values(begin, name):
    begun = begin(name)
    for axis, values in begun.grid.items():
        assert isinstance(axis, str)
        assert np.ndim(values) == 1
        assert len(values) >= 1
        assert np.isfinite(values).all()
    if "selection" in METHODS[name].settings.model_fields:
        fixed = begin(name, selection="fixed").grid
        assert list(fixed) == list(begun.grid)
        assert all(len(values) == 1 for values in fixed.values())


def test_methods_that_blend_have_the_tuned_pool(begin, model):
    original = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model.attnpool)))
    for name in (name for name in METHODS if METHODS[name].blends):
        pool = begin(name).start.params["attnpool"]
        jax.tree.map(np.testing.assert_array_equal, pool, original)
        assert list(begin(name).grid) == ["alpha"]
