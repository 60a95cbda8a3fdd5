"""Measures us against PyTorch in one run, as ratios, and the search of a cache's grid.

    python -m tools.benchmark [--batch 64] [--preset RN50] [--rounds 9]

pool_step: forward and backward of the attention pool and its loss, with respect to the pool's
parameters, as in every tuning step; ours is folded and compiled, PyTorch's is its own attention,
eager, in float32 on the same threads. The two take turns, so that a drift of the machine hits
both; the ratio is that of their medians.

cache_grid: accuracy and loss of Tip-Adapter at 200 x 20 points on 5,000 images of 100 classes, with
a cache of 16 shots; compiled before, as of the second subset on.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from configs import default
from safe_jax import batches, features, knobs, parallel, train
from safe_jax.clip import weights
from safe_jax.clip.attention_pool import AttentionPool
from safe_jax.clip.model import PRESETS
from safe_jax.methods import cache, safe, tip_adapter
from safe_jax.methods.zero_shot import Classifier, unit
from tests import torch_clip

CLASSES = 100


def pool_step(config, batch):
    """Two functions that do one step's work on the same numbers and return its loss."""
    h, w, c = config.dense_shape
    rng = np.random.default_rng(0)
    dense_bhwc = rng.exponential(size=(batch, h, w, c)).astype(np.float32)
    text_kd = np.array(unit(rng.normal(size=(CLASSES, config.embed_dim)).astype(np.float32)))
    label_b = np.arange(batch) % CLASSES
    pool = AttentionPool(h, c, config.embed_dim, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(pool)

    def loss_fn(params, dense_bhwc):
        feature_bd = nnx.merge(graphdef, params)(dense_bhwc)
        logits_bk = safe.blended_logits(feature_bd, feature_bd, text_kd, 100.0, 1.0, "feature")
        return -jax.nn.log_softmax(logits_bk)[jnp.arange(batch), label_b].mean()

    step = jax.jit(jax.value_and_grad(loss_fn))
    dense_on_device = jnp.asarray(dense_bhwc)

    def ours():
        loss, grads = jax.block_until_ready(step(params, dense_on_device))
        return float(loss), grads

    leaves = {f"attnpool/{path}": x for path, x in weights.flatten(pool).items()}
    state = weights.to_torch(leaves)
    state = {name: torch.from_numpy(x.copy()).requires_grad_() for name, x in state.items()}
    dense_bchw = torch.from_numpy(dense_bhwc).permute(0, 3, 1, 2).contiguous()
    text, label = torch.from_numpy(text_kd), torch.from_numpy(label_b)

    def theirs():
        for x in state.values():
            x.grad = None
        feature_bd = torch.nn.functional.normalize(torch_clip.pool(state, dense_bchw), dim=-1)
        loss = torch.nn.functional.cross_entropy(100 * feature_bd @ text.T, label)
        loss.backward()
        return loss.item(), state

    return ours, theirs


def compare(ours, theirs, rounds):
    """Seconds of each, as medians of `rounds` turns after one that is not counted."""
    (our_loss, _), (their_loss, _) = ours(), theirs()
    if abs(our_loss - their_loss) > 1e-4 * abs(their_loss):
        raise AssertionError(f"not the same work: losses {our_loss} and {their_loss}")
    seconds = [], []
    for _ in range(rounds):
        for function, taken in zip((ours, theirs), seconds, strict=True):
            began = time.perf_counter()
            function()
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in seconds]


def cache_grid(images=5000, classes=100, shots=16, width=1024, config=None):
    """A function that searches the grid of a cache, and returns accuracy at all its points."""
    config = config or knobs.of(knobs.resolve(default.get_config()), "tip_adapter")
    rng = np.random.default_rng(0)

    def random_unit(*shape):
        return unit(rng.normal(size=(*shape, width)).astype(np.float32))

    mesh = parallel.make_mesh(jax.devices()[:1])
    context = cache.Context(
        Classifier(random_unit(classes), jnp.float32(100)), np.ones((classes, shots), np.float32)
    )
    method = tip_adapter.TipAdapter(config.b, config.a)
    params, tuning = train.as_is(method, {"keys": random_unit(classes, shots)}, context, mesh)
    table = features.Table({"original_bd": random_unit(images)}, views=1)
    image_n, label_n = np.arange(images), rng.integers(classes, size=images)

    def search():
        in_order = batches.in_order(table, image_n, label_n, config.eval_batch_size, mesh)
        return train.evaluate(params, tuning, cache.grid(config), in_order)[0]

    return search


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="RN50")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    ours, theirs = compare(*pool_step(PRESETS[args.preset], args.batch), args.rounds)
    row = {
        "what": "pool_step",
        "preset": args.preset,
        "batch": args.batch,
        "threads": torch.get_num_threads(),
        "ours_ms_per_image": round(1e3 * ours / args.batch, 3),
        "torch_ms_per_image": round(1e3 * theirs / args.batch, 3),
        "ratio": round(theirs / ours, 2),
    }
    print(json.dumps(row))
    search = cache_grid()
    points = search().size  # compiles
    began = time.perf_counter()
    search()
    seconds = round(time.perf_counter() - began, 2)
    print(json.dumps({"what": "cache_grid", "points": points, "seconds": seconds}))


if __name__ == "__main__":
    main()
