"""The attention pool forward and backward, and a step of tuning: that, and AdamW on what trains.

PyTorch's side is its own attention, eager, in float32; for SigLIP's head that of `transformers`.
"""

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from configs import default
from safe_jax.bank import batches
from safe_jax.checkpoints import state_dict, trees
from safe_jax.clip.attention_pool import AttentionPool
from safe_jax.clip.family import FAMILY
from safe_jax.clip.model import CLIPConfig
from safe_jax.experiment import knobs
from safe_jax.methods.contract import Setting
from safe_jax.methods.safe import Safe
from safe_jax.methods.text_head import TextHead, unit
from safe_jax.runtime import devices
from safe_jax.siglip.attention_pool import AttentionPool as MAPHead
from safe_jax.siglip.family import FAMILY as SIGLIP
from safe_jax.tuning import fit
from tools import torch_clip
from tools.benchmarks.harness import Case, counted_flops

CLASSES, SCALE = 100, 100


class Theirs(NamedTuple):
    """PyTorch's pool: what it tunes, and dense maps `(b, c, h, w)` to features `(b, d)`."""

    params: Sequence[torch.Tensor]
    features: Callable[[torch.Tensor], torch.Tensor]


class Pool:
    """A pool, maps and labels, the same on both sides."""

    def __init__(self, pool: Any, config: Any, theirs: Theirs, batch: int, device):
        rng = np.random.default_rng(0)
        self.dense_bhwc = rng.exponential(size=(batch, *config.dense_shape)).astype(np.float16)
        self.text_kd = np.array(
            unit(rng.normal(size=(CLASSES, config.embed_dim)).astype(np.float32))
        )
        self.label_b = (np.arange(batch) % CLASSES).astype(np.int32)
        self.pool, self.their_pool = pool, theirs
        self.config = knobs.read(default.get_config())
        self.mesh = devices.make_mesh(jax.devices()[:1])
        self.batch = devices.shard(
            self.mesh,
            {
                "dense_bhwc": self.dense_bhwc,
                "original_bd": np.zeros((batch, config.embed_dim), np.float32),
                "label_b": self.label_b,
                "mask_b": np.ones(batch, np.float32),
            },
        )
        dense = torch.from_numpy(self.dense_bhwc.astype(np.float32)).permute(0, 3, 1, 2)
        self.dense_bchw = dense.contiguous().to(device)
        self.text, self.label = (
            torch.from_numpy(x).to(device) for x in (self.text_kd, self.label_b.astype(np.int64))
        )

    def our_gradients(self):
        """A function that returns the loss, having found its gradients."""
        method, params, context = self._start()
        graph = jax.jit(
            jax.value_and_grad(lambda params, batch: method.loss(params, context, batch).mean())
        )
        return lambda: jax.block_until_ready(graph(params, self.batch))[0]

    def our_step(self):
        """A function that takes the next step, and returns its loss."""
        count = len(self.label_b)
        plan = batches.plan(count, 1, count, 10_000, 0)
        state, stepper = fit.start_steps(self._start(), self.config, plan, self.mesh)
        held = [state]

        def step():
            held[0], loss = stepper.step(held[0], self.batch)
            return jax.block_until_ready(loss)

        return step

    def _start(self):
        model = types.SimpleNamespace(attnpool=self.pool)
        head = TextHead(jnp.asarray(self.text_kd), jnp.float32(SCALE))
        return Safe.start(Setting(model, head, None, shots=1, seed=0), self.config)

    def theirs(self, tunes: bool):
        """What PyTorch does for the same, with or without its optimizer's step."""
        on_gpu = self.dense_bchw.is_cuda
        optimizer = torch.optim.AdamW(self.their_pool.params, lr=1e-6, fused=on_gpu or None)

        def step():
            feature = self.their_pool.features(self.dense_bchw)
            logits = SCALE * torch.nn.functional.normalize(feature, dim=-1) @ self.text.T
            loss = torch.nn.functional.cross_entropy(logits, self.label)
            optimizer.zero_grad()
            loss.backward()
            if tunes:
                optimizer.step()
            return loss.item()

        return step


def _clip(preset: CLIPConfig, batch: int, device) -> Pool:
    h, _, c = preset.dense_shape
    pool = AttentionPool(h, c, preset.embed_dim, rngs=nnx.Rngs(0))
    leaves = {f"attnpool/{path}": x for path, x in trees.flatten(pool).items()}
    params = {
        name: torch.from_numpy(x.copy()).to(device).requires_grad_()
        for name, x in state_dict.to_torch(FAMILY, leaves).items()
    }
    theirs = Theirs(list(params.values()), functools.partial(torch_clip.pool, params))
    return Pool(pool, preset, theirs, batch, device)


def _map_head(batch: int, device) -> Pool:
    """SigLIP's B/16 at 224 pixels, beside the head of `transformers`; both hold the same values."""
    from transformers.models.siglip import configuration_siglip, modeling_siglip

    config = configuration_siglip.SiglipVisionConfig()
    head = modeling_siglip.SiglipMultiheadAttentionPoolingHead(config).to(device)
    width, side = config.hidden_size, config.image_size // config.patch_size
    pool = MAPHead(width, config.num_attention_heads, config.intermediate_size, rngs=nnx.Rngs(0))
    leaves = {f"attnpool/{path}": x for path, x in trees.flatten(pool).items()}
    prefix = "vision_model.head."
    state = state_dict.to_torch(SIGLIP, leaves).items()
    head.load_state_dict({n.removeprefix(prefix): torch.from_numpy(x.copy()) for n, x in state})

    def features(dense_bchw):
        return head(dense_bchw.flatten(2).transpose(1, 2))

    shape = types.SimpleNamespace(dense_shape=(side, side, width), embed_dim=width)
    return Pool(pool, shape, Theirs(list(head.parameters()), features), batch, device)


def cases(preset: CLIPConfig, batch: int, device) -> list[Case]:
    return _cases("pool", _clip(preset, batch, device))


def map_head_cases(batch: int, device) -> list[Case]:
    return _cases("map_head", _map_head(batch, device))


def _cases(name: str, pool: Pool) -> list[Case]:
    batch = len(pool.label_b)
    flops = 3 * counted_flops(lambda pool, x: pool(x), pool.pool, pool.batch["dense_bhwc"])
    common = {"count": batch, "unit": "images of a batch", "flops": flops}
    params = sum(4 * x.size for x in trees.flatten(pool.pool).values())
    maps = pool.dense_bhwc.nbytes
    return [
        # Parameters in, gradients out; for AdamW both moments as well, in and out.
        Case(name, pool.our_gradients(), pool.theirs(False), **common, bytes=2 * params + maps),
        Case(f"{name}_step", pool.our_step(), pool.theirs(True), **common, bytes=6 * params + maps),
    ]
