"""What can be shown of accelerators without one: programs are made for them, in full float32."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safe_jax.bank import batches, extraction, store
from safe_jax.experiment import run as experiment
from safe_jax.methods.safe import Safe, grid
from safe_jax.runtime import devices
from safe_jax.tuning import population, train
from tests import tiny


@pytest.fixture(scope="module")
def programs(model, tiny_root):
    """The compiled functions, each with its arguments."""
    config = tiny.freeze(tiny.config(tiny_root))
    mesh = devices.make_mesh(jax.devices()[:1])
    dense = np.ones((8, *model.config.dense_shape), np.float16)
    table = store.Table({"dense_bhwc": dense, "original_bd": model.attnpool(dense)}, views=1)
    plan = batches.plan(8, 1, 8, config.epochs, seed=0)
    batch = next(batches.from_bank(table, np.arange(8), np.arange(8) % 4, plan, mesh))
    text_kd = jnp.eye(4, model.config.embed_dim)
    state, tuning = train.init(*Safe.init(model, text_kd, config), config, plan, mesh)
    fixed = {"method": tuning.method, "optimizer": tuning.optimizer}
    axes = [jnp.asarray(values) for values in grid(config).values()]
    graphdef, params = extraction.fold(model, mesh)
    pixels = np.zeros((2, model.image_size, model.image_size, 3), np.uint8)
    states, shared = population.stack([(state, tuning)] * 2, table.arrays, mesh)
    members = [batches.rows(table, np.arange(8), np.arange(8) % 4, plan)] * 2
    rows = next(population.batches(members, mesh))
    return {
        "loss_and_grads": (
            jax.jit(train.loss_and_grads, static_argnames="method"),
            (state.params, tuning.frozen, batch), {"method": tuning.method},
        ),
        "eval_step": (
            train.eval_step, (state.params, tuning.frozen, batch, axes, None),
            {"method": tuning.method},
        ),
        "population_step": (
            population.population_step,
            (states, shared.frozen, shared.schedule, shared.table, rows), fixed,
        ),
        "extract_step": (extraction.extract_step, (graphdef, params, pixels, jnp.float16), {}),
    }  # fmt: skip


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", ["loss_and_grads", "eval_step", "population_step", "extract_step"])
def test_a_step_is_made_for_an_accelerator(programs, name, platform):
    function, args, fixed = programs[name]
    with jax.default_matmul_precision("highest"):
        traced = function.trace(*args, **fixed)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    products = re.findall(r"stablehlo\.(?:dot_general|convolution).*", text)
    assert products
    # What is not told to be exact is rounded to 10 bits on a GPU, and to 7 on a TPU.
    assert [line for line in products if len(re.findall("HIGHEST", line)) < 2] == []


def test_a_run_is_computed_in_full_float32(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "_run", lambda *_: [jax.config.jax_default_matmul_precision])
    assert experiment.run(tiny_config, tmp_path) == ["highest"]
