"""Programs are lowered for accelerators, which none is needed for, and in full float32."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from safe_jax.bank import batches, extraction
from safe_jax.checkpoints import trees
from safe_jax.classifier import evaluate
from safe_jax.clip.model import CLIP
from safe_jax.experiment import run as experiment
from safe_jax.methods.safe import Safe, SafeSettings
from safe_jax.siglip.config import SigLIPConfig
from safe_jax.siglip.model import SigLIP
from safe_jax.tuning import fit, population, train
from tests import tiny
from tests.safe_run import LABELS, Run

SIGLIP = SigLIPConfig(
    image_size=32, patch_size=16, vision_width=32, vision_mlp_width=64, vision_layers=2,
    vision_heads=2, text_width=32, text_mlp_width=64, text_layers=1, text_heads=2, vocab_size=99,
    canonical="lower", pad_token=1, tokenizer_bytes=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def programs(model, text_kd, maps_view):
    """The compiled functions, each with its arguments."""
    run = Run(model, text_kd, maps_view)
    method, mesh = run.start.method, run.mesh
    batch = next(run.batches())
    axes = evaluate.Axes(list(Safe.grid(SafeSettings(), {}).values()), evaluate.POINTS_AT_ONCE)
    graphdef, params = extraction.fold(model, mesh)
    pixels = np.zeros((2, model.image_size, model.image_size, 3), np.uint8)
    table = batches.put_rows([(maps_view, np.arange(len(LABELS)))], mesh)
    started = [fit.start_steps(run.start, run.recipe, run.plan, mesh) for _ in range(2)]
    states, members = population.stack(started, table, mesh)
    planned = [batches.rows(maps_view, run.plan)] * 2
    rows = next(population.batches(planned, mesh))
    constants = members.frozen, members.schedule, members.table
    stepper = run.stepper
    return {
        "loss_and_grads": (
            jax.jit(train.loss_and_grads, static_argnames="method"),
            (run.state.params, stepper.frozen, batch), {"method": method},
        ),
        "eval_step": (
            evaluate.eval_step, (run.start.params, run.start.context, batch, axes, None),
            {"method": method},
        ),
        "population_step": (
            population.population_step, (states, constants, rows),
            {"method": method, "optimizer": stepper.optimizer},
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
    # Without this mark operands are rounded to 10 bits on a GPU, and to 7 on a TPU.
    assert [line for line in products if len(re.findall("HIGHEST", line)) < 2] == []


def test_a_run_is_computed_in_full_float32(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "_run", lambda *_: [jax.config.jax_default_matmul_precision])
    assert experiment.run(tiny_config, tmp_path) == ["highest"]


def trunk_on_a_gpu(kind, config, dtype):
    """The main function of a folded trunk, as it is lowered for CUDA; its last argument: images."""
    model = trees.abstract_model(config, dtype, kind=kind).image_tower()
    graphdef, params = nnx.split(nnx.eval_shape(lambda model: model.folded(), model))
    images = jax.ShapeDtypeStruct((2, config.image_size, config.image_size, 3), jnp.float32)
    trunk = jax.jit(lambda params, images: nnx.merge(graphdef, params).dense_features(images))
    lowered = trunk.trace(params, images).lower(lowering_platforms=("cuda",))
    return lowered.as_text().split("func.func private")[0]


@pytest.mark.parametrize(("kind", "config"), [(CLIP, tiny.CONFIG), (SigLIP, SIGLIP)])
def test_a_gpu_casts_no_weights_in_a_step(kind, config):
    text = trunk_on_a_gpu(kind, config, jnp.bfloat16)
    arguments = re.findall(r"(%arg\d+): ", text)
    assert set(re.findall(r"stablehlo\.convert (%arg\d+)", text)) == {arguments[-1]}


def test_a_gpu_leaves_a_cnn_in_16_bits_throughout():
    text = trunk_on_a_gpu(CLIP, tiny.CONFIG, jnp.bfloat16)
    assert re.findall(r"stablehlo\.convert .*-> tensor<\S*f32>", text) == []
