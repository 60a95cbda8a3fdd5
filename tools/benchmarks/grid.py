"""The search of a cache's grid, against the double loop of the peers' code in PyTorch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import torch

from configs import default
from safe_jax.bank import batches, store
from safe_jax.experiment import knobs
from safe_jax.methods import cache, tip_adapter
from safe_jax.methods.zero_shot import Classifier, unit
from safe_jax.runtime import devices
from safe_jax.tuning import train
from tools.benchmarks.harness import Case

THEIR_POINTS = 40


def cases(device, images=5000, classes=100, shots=16, width=1024, changed=()) -> list[Case]:
    """Accuracy of Tip-Adapter at every point of its grid.

    Args:
        changed: knobs of the cache that are others than by default.
    """
    config = default.get_config()
    config.tip_adapter.update(dict(changed))
    config = knobs.of(knobs.resolve(config), "tip_adapter")
    rng = np.random.default_rng(0)

    def random_unit(*shape):
        return np.array(unit(rng.normal(size=(*shape, width)).astype(np.float32)))

    text_kd, keys_ksd = random_unit(classes), random_unit(classes, shots)
    feature_nd = random_unit(images)
    label_n = rng.integers(classes, size=images)
    mesh = devices.make_mesh(jax.devices()[:1])
    context = cache.Context(
        Classifier(jnp.asarray(text_kd), jnp.float32(100)), jnp.ones((classes, shots))
    )
    method = tip_adapter.TipAdapter(config.b, config.a)
    params, tuning = train.as_is(method, {"keys": jnp.asarray(keys_ksd)}, context, mesh)
    table = store.Table({"original_bd": feature_nd}, views=1)
    grid = cache.grid(config)

    def ours():
        in_order = batches.in_order(table, np.arange(images), label_n, config.eval_batch_size, mesh)
        return train.evaluate(params, tuning, grid, in_order)[0][0, 0]

    text, feature, label = (torch.from_numpy(x).to(device) for x in (text_kd, feature_nd, label_n))
    keys = torch.from_numpy(keys_ksd.reshape(-1, width)).to(device)
    values = torch.eye(classes, device=device).repeat_interleave(shots, 0)
    points = list(itertools.product(grid["b"], grid["a"]))

    @torch.no_grad()
    def theirs():
        clip_logits, cosine, found = 100 * feature @ text.T, feature @ keys.T, []
        for b, a in points[:THEIR_POINTS]:
            cache_logits = (-b * (1 - cosine)).exp() @ values
            right = (clip_logits + a * cache_logits).argmax(1) == label
            found.append(100 * right.float().mean().item())
        return found[0]

    run = min(THEIR_POINTS, len(points))
    return [
        Case(
            "cache_grid",
            ours,
            theirs,
            len(points),
            "points of the grid",
            # For every b all cosines are read, for every point the logits of the cache.
            bytes=4 * images * classes * (len(grid["b"]) * shots + len(points)),
            theirs_times=len(points) / run,
            tolerance=0.05,
            note=f"{run} of PyTorch's {len(points)} points are run",
        )
    ]
