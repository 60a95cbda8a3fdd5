"""The search of a cache's grid, against the double loop of the peers' code in PyTorch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import torch

from configs import default
from safe_jax.bank.view import View
from safe_jax.classifier.evaluate import Reader, evaluate
from safe_jax.experiment import knobs
from safe_jax.methods import tip_adapter
from safe_jax.methods.cache import CacheHead, cache_grid
from safe_jax.methods.contract import Start
from safe_jax.methods.text_head import TextHead, unit
from safe_jax.runtime import devices
from safe_jax.tuning import fit
from tools.benchmarks.harness import Case

THEIR_POINTS = 40


def cases(device, images=5000, classes=100, shots=16, width=1024, changed=()) -> list[Case]:
    """Accuracy of Tip-Adapter at every point of its grid.

    Args:
        changed: knobs of the cache that are others than by default.
    """
    given = default.get_config()
    given.tip_adapter.update(dict(changed))
    settings = knobs.settings(knobs.read(given), "tip_adapter")
    rng = np.random.default_rng(0)

    def random_unit(*shape):
        return np.array(unit(rng.normal(size=(*shape, width)).astype(np.float32)))

    text_kd, keys_ksd = random_unit(classes), random_unit(classes, shots)
    feature_nd = random_unit(images)
    label_n = rng.integers(classes, size=images)
    mesh = devices.make_mesh(jax.devices()[:1])
    head = TextHead(jnp.asarray(text_kd), jnp.float32(100))
    method = tip_adapter.TipAdapter(settings.b, settings.a)
    params = {"keys": jnp.asarray(keys_ksd)}
    tuned = fit.untuned(Start(method, params, CacheHead(head, jnp.ones((classes, shots)))), mesh)
    view = View.of("random", {"original_bd": feature_nd}, label_n)
    grid = cache_grid(settings)

    def ours():
        measured = evaluate(method, tuned.params, tuned.context, grid, view, Reader(mesh))
        return measured.accuracy[0, 0]

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
