"""What the other methods compute and train, and how methods share a file of results."""

import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import default
from safe_jax.experiment import compare, knobs
from safe_jax.experiment import run as experiment
from safe_jax.methods import tip_adapter, zero_shot
from safe_jax.methods.clip_adapter import ClipAdapter
from safe_jax.methods.linear_probe import LinearProbe
from safe_jax.methods.partial import Partial
from safe_jax.methods.prolip import ProLIP
from safe_jax.runtime import devices
from safe_jax.runtime.errors import InputError
from safe_jax.tuning import train
from tests import tiny
from tests.commands import rows, run
from tests.fake_features import CONFIG, COUNT, DIM, batch_of, unit


@pytest.fixture(scope="module")
def maps(model):
    dense = np.random.default_rng(0).exponential(size=(COUNT, *model.config.dense_shape))
    return dense.astype(np.float32)


@pytest.fixture(scope="module")
def real_batch(model, maps, data):
    """Maps, and what the original pool makes of them."""
    return batch_of(
        data,
        dense_bhwc=jnp.asarray(maps),
        original_bd=model.attnpool(maps),
        unprojected_bc=model.attnpool.unprojected(maps),
    )


def start(name, model, data, weight=0.5):
    """Method, parameters and context before the first step; `weight` is ProLIP's lambda."""
    text = jnp.asarray(data.text)
    return {
        "clip_adapter": lambda: ClipAdapter.init(model, text, CONFIG, 0),
        "prolip": lambda: ProLIP.init(model, text, weight),
        "linear_probe": lambda: LinearProbe.init(model, text),
        "partial": lambda: Partial.init(model, text),
    }[name]()


def tuned(name, model, data, batch, steps=4, weight=0.5, **changed):
    """The method after some steps with its own knobs; which leaves changed."""
    config = knobs.of(knobs.resolve(default.get_config()), name)
    config = tiny.freeze(config, warmup_epochs=0.0, **changed)
    method, params, context = start(name, model, data, weight)
    before = jax.tree.map(np.asarray, params)
    plan = types.SimpleNamespace(steps=steps, steps_per_epoch=1)
    mesh = devices.make_mesh(jax.devices()[:1])
    state, tuning = train.init(method, params, context, config, plan, mesh)
    for _ in range(steps):
        state, _ = tuning.step(state, batch)
    params = train.join_params(state.params, tuning.frozen.params)
    same = jax.tree.map(lambda x, y: np.asarray(x).tobytes() == y.tobytes(), params, before)
    paths = jax.tree_util.tree_flatten_with_path(same)[0]
    changed = {jax.tree_util.keystr(p, simple=True, separator="/") for p, kept in paths if not kept}
    return method.logits(params, context, batch), changed


@pytest.mark.parametrize("name", ["prolip", "linear_probe", "partial"])
def test_before_the_first_step_it_is_zero_shot(model, scale, data, real_batch, name):
    method, params, context = start(name, model, data)
    wanted = zero_shot.logits(real_batch["original_bd"], data.text, scale)
    found = method.logits(params, context, real_batch)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    still, _ = tuned(name, model, data, real_batch, learning_rate=0.0)
    np.testing.assert_array_equal(still, found)


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("prolip", {"c_proj/kernel"}),
        ("linear_probe", {"classifier"}),
        ("clip_adapter", {"down", "up"}),
    ],
)
def test_what_trains_and_what_stays(model, data, real_batch, name, trained):
    assert tuned(name, model, data, real_batch)[1] == trained


def test_partial_tuning_trains_the_pool_and_the_head_or_what_the_pattern_names(
    model, data, real_batch
):
    _, changed = tuned("partial", model, data, real_batch)
    pool = {f"attnpool/{path}" for path in tiny_paths(model)}
    # The key bias cannot matter, so nothing but weight decay could move it, and it starts at 0.
    assert pool | {"classifier"} >= changed >= (pool | {"classifier"}) - {"attnpool/k_proj/bias"}
    assert tuned("partial", model, data, real_batch, trainable="classifier")[1] == {"classifier"}


def tiny_paths(model):
    paths = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(model.attnpool)))[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def test_prolips_distance_counts_once_and_holds_the_projection(model, scale, data, real_batch):
    method, params, context = start("prolip", model, data)
    moved = jax.tree.map(jnp.copy, params)
    moved["c_proj"]["kernel"] = moved["c_proj"]["kernel"] + 0.01
    alone = optax.softmax_cross_entropy_with_integer_labels(
        method.logits(moved, context, real_batch), real_batch["label_b"]
    )
    distance = 0.5 * 0.01**2 * params["c_proj"]["kernel"].size
    np.testing.assert_allclose(
        method.loss(moved, context, real_batch).mean(), alone.mean() + distance, rtol=1e-4
    )

    wanted = zero_shot.logits(real_batch["original_bd"], data.text, scale)
    free, held = (
        tuned("prolip", model, data, real_batch, 60, weight, learning_rate=1e-3)[0]
        for weight in (0.0, 1e6)
    )
    assert np.abs(held - wanted).max() < 0.02 * np.abs(free - wanted).max()


def test_clip_adapter_with_ratio_0_is_zero_shot(model, scale, data):
    text = jnp.asarray(data.text)
    wanted = zero_shot.logits(data.original, data.text, scale)
    for ratio in (0.0, 0.3):
        config = tiny.freeze(CONFIG, ratio=ratio)
        method, params, context = ClipAdapter.init(model, text, config, 0)
        found = method.logits(params, context, batch_of(data))
        assert np.allclose(found, wanted, rtol=1e-5, atol=1e-5) == (ratio == 0)
    adapted = np.maximum(np.maximum(data.original @ params["down"], 0) @ params["up"], 0)
    formula = scale * unit(0.3 * adapted + 0.7 * data.original) @ data.text.T
    np.testing.assert_allclose(found, formula, rtol=1e-4, atol=1e-4)
    assert params["down"].shape == (DIM, DIM // 4)
    again = ClipAdapter.init(model, text, CONFIG, 1)[1]
    assert not np.array_equal(again["down"], params["down"])


def test_a_logit_that_another_class_has_too_counts_as_argmax_says(data):
    """As for classes of the same name."""
    logits_bk = jnp.array([[1.0, 1, 0], [1, 1, 0], [0, 1, 1], [2, 1, 3], [jnp.nan] * 3])
    label_b = jnp.array([0, 1, 2, 2, 1])
    method = types.SimpleNamespace(logits=lambda params, context, batch: logits_bk)
    frozen = train.Frozen({}, None)
    batch = {"label_b": label_b, "mask_b": jnp.ones(5)}
    with jax.disable_jit():
        right, _, count = train.eval_step({}, frozen, batch, (), None, method=method)
    assert (int(right), int(count)) == (2, 5)


def test_own_knobs_are_resolved_by_data_set_and_belong_to_their_method():
    config = default.get_config()
    config.dataset = "eurosat"
    config.tip_adapter.b_max = 3.5
    config.methods = ("zero_shot, tip_adapter",)  # as it comes from a command line
    resolved = knobs.resolve(config)
    assert config.tip_adapter.a == 0  # the user's own stays
    assert resolved.methods == ("zero_shot", "tip_adapter")
    found = knobs.of(resolved, "tip_adapter_f")
    assert (found.a_max, found.b_max, found.a, found.epochs) == (10, 3.5, 2, 100)
    assert (found.learning_rate, found.b1) == (1e-3, 0.9)
    assert knobs.of(resolved, "safe").learning_rate == 1e-4
    assert knobs.own(resolved, "safe") == {}
    config.dataset, config.tfds = "", "eurosat/rgb"
    assert knobs.own(knobs.resolve(config), "tip_adapter_f")["epochs"] == 100
    config.dataset, config.tfds = "mine", ""
    assert knobs.own(knobs.resolve(config), "safe_a")["b_max"] == tip_adapter.OTHERS.b_max
    assert set(compare.METHODS) == set(knobs.METHODS)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"methods": ("safe,tip",)},
            "config.methods: there is no tip; choose from zero_shot, safe",
        ),
        ({"methods": ("safe", "safe")}, "config.methods=safe,safe: different methods are expected"),
        ({"methods": ()}, "different methods are expected"),
        ({"methods": ("prolip",), "features": "online"}, "prolip: set config.features=bank"),
        ({"tip_adapter.a_steps": 0}, "config.tip_adapter.a_steps=0: at least 1 is expected"),
        ({"prolip.trainable": "("}, "config.prolip.trainable='(' is no regular expression"),
        ({"clip_adapter.ratio": 3.0}, "config.clip_adapter.ratio=3.0: at most 1"),
        ({"clip_adapter.ratio": -1.0}, "config.clip_adapter.ratio=-1.0: at least 0 is expected"),
    ],
)
def test_mistakes_are_told(changed, said):
    config = default.get_config()
    config.update_from_flattened_dict(changed)
    with pytest.raises(InputError, match=re.escape(said)):
        knobs.validate(config)


def test_a_method_joins_the_rows_of_others_and_its_knobs_are_its_own(tiny_config, tmp_path):
    tiny_config.update(shots=(2,), methods=("zero_shot", "safe"), epochs=1)
    first = experiment.run(tiny_config, tmp_path)
    tiny_config.methods = ("safe", "tip_adapter")
    second = experiment.run(tiny_config, tmp_path)
    assert second[0] == first[1]  # to the second: not computed again
    tiny_config.tip_adapter.a_steps = 3
    third = experiment.run(tiny_config, tmp_path)
    assert [row["method"] for row in third] == ["safe", "tip_adapter"]
    assert third[0] == first[1]
    assert third[1] != second[1]
    assert third[1]["knobs"] == second[1]["knobs"] | {"a_steps": 3}
    tiny_config.tip_adapter.a_steps = 20
    assert experiment.run(tiny_config, tmp_path) == second
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 4


TUNED = ("tip_adapter_f", "clip_adapter", "prolip", "linear_probe", "partial")


def test_every_method_by_the_command(tiny_root, tmp_path):
    epochs = {f"{group}.epochs": 2 for group in TUNED}
    process = run(
        tiny_root, tmp_path / "run", tmp_path / "cache", shots="2", seeds="1", views=2,
        methods=",".join(knobs.METHODS), **epochs,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    by_method = {row["method"]: row for row in rows(tmp_path / "run")}
    assert list(by_method) == list(knobs.METHODS)
    chosen = {
        method: {name for name in ("alpha", "a", "b") if row.get(name) is not None}
        for method, row in by_method.items()
    }
    cached = {"tip_adapter", "tip_adapter_f", "safe_a", "safe_a_f"}
    assert {method for method, names in chosen.items() if {"a", "b"} <= names} == cached
    assert {m for m, names in chosen.items() if "alpha" in names} == {"safe", "safe_a", "safe_a_f"}
    for method, row in by_method.items():
        assert row["selection"] == ("few_shot_val" if chosen[method] else "none")
        assert ("val_accuracy" in row) == (method in cached)
        untuned = method in ("zero_shot", "tip_adapter", "safe_a")
        assert len(row.get("losses", [])) == (0 if untuned else 5 if method == "safe" else 2)
        assert len(json.dumps(row)) < 2000 or method == "safe"
    heading, _, *lines = process.stdout.splitlines()
    assert "; alpha, a, b by few_shot_val" in heading
    assert [line[: line.index("  ")] for line in lines[: len(by_method)]] == [
        "zero-shot", "SAFE", "SAFE-A", "SAFE-A (keys tuned)", "Tip-Adapter", "Tip-Adapter-F",
        "CLIP-Adapter", "ProLIP", "linear probe", "pool + linear head",
    ]  # fmt: skip
