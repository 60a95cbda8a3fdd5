"""A step of tuning: the attention pool forward and backward, and AdamW on its parameters."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from configs import default
from safe_jax import batches, knobs, parallel, train
from safe_jax.clip import weights
from safe_jax.clip.attention_pool import AttentionPool
from safe_jax.clip.model import CLIPConfig
from safe_jax.methods.safe import Safe
from safe_jax.methods.zero_shot import unit
from tests import torch_clip
from tools.benchmarks.harness import Case, counted_flops

CLASSES, SCALE = 100, 100


class Pool:
    """The same pool, maps and labels on both sides."""

    def __init__(self, preset: CLIPConfig, batch: int, device):
        h, w, c = preset.dense_shape
        rng = np.random.default_rng(0)
        self.dense_bhwc = rng.exponential(size=(batch, h, w, c)).astype(np.float16)
        self.text_kd = np.array(
            unit(rng.normal(size=(CLASSES, preset.embed_dim)).astype(np.float32))
        )
        self.label_b = (np.arange(batch) % CLASSES).astype(np.int32)
        self.pool = AttentionPool(h, c, preset.embed_dim, rngs=nnx.Rngs(0))
        self.config = knobs.resolve(default.get_config())
        self.mesh = parallel.make_mesh(jax.devices()[:1])
        self.batch = parallel.shard(
            self.mesh,
            {
                "dense_bhwc": self.dense_bhwc,
                "original_bd": np.zeros((batch, preset.embed_dim), np.float32),
                "label_b": self.label_b,
                "mask_b": np.ones(batch, np.float32),
            },
        )
        leaves = {f"attnpool/{path}": x for path, x in weights.flatten(self.pool).items()}
        self.params = {
            name: torch.from_numpy(x.copy()).to(device).requires_grad_()
            for name, x in weights.to_torch(leaves).items()
        }
        dense = torch.from_numpy(self.dense_bhwc.astype(np.float32)).permute(0, 3, 1, 2)
        self.dense_bchw = dense.contiguous().to(device)
        self.text, self.label = (
            torch.from_numpy(x).to(device) for x in (self.text_kd, self.label_b.astype(np.int64))
        )
        self.bytes = self._bytes()

    def _bytes(self):
        """What one step cannot but move: maps in, parameters and both moments in and out."""
        params = sum(x.size * 4 for x in weights.flatten(self.pool).values())
        return 6 * params + self.dense_bhwc.nbytes

    def ours(self):
        """A function that takes the next step, and returns its loss; compiled already."""
        model = types.SimpleNamespace(
            attnpool=self.pool, logit_scale=nnx.Param(jnp.log(jnp.float32(SCALE)))
        )
        made = Safe.init(model, jnp.asarray(self.text_kd), self.config)
        plan = batches.plan(len(self.label_b), 1, len(self.label_b), 10_000, 0)
        state, tuning = train.init(*made, self.config, plan, self.mesh)
        held = [state]

        def step():
            held[0], loss = tuning.step(held[0], self.batch)
            return jax.block_until_ready(loss)

        return step

    def theirs(self):
        """The same of PyTorch, eager."""
        optimizer = torch.optim.AdamW(self.params.values(), lr=1e-6)

        def step():
            feature = torch_clip.pool(self.params, self.dense_bchw)
            logits = SCALE * torch.nn.functional.normalize(feature, dim=-1) @ self.text.T
            loss = torch.nn.functional.cross_entropy(logits, self.label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

        return step


def cases(preset: CLIPConfig, batch: int, device) -> list[Case]:
    pool = Pool(preset, batch, device)
    forward = counted_flops(lambda pool, x: pool(x), pool.pool, pool.batch["dense_bhwc"])
    return [
        Case(
            "pool_step", pool.ours(), pool.theirs(), batch, "images of a batch",
            flops=3 * forward, bytes=pool.bytes,
        )
    ]  # fmt: skip
