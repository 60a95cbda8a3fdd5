"""The trunk's forward pass, from preprocessed images to dense maps.

PyTorch's side is its best form: channels last, batch norms folded, in place, eager; then the form
of the peers' code, with its default layout and batch norms apart; then the first one compiled.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from safe_jax.bank import extraction
from safe_jax.checkpoints import state_dict, trees
from safe_jax.clip.family import FAMILY
from safe_jax.clip.model import CLIP, CLIPConfig
from safe_jax.runtime import devices
from tools import torch_clip
from tools.benchmarks.harness import Case, counted_flops


def model_and_state(preset: CLIPConfig, dtype) -> tuple[CLIP, dict]:
    """The same random weights as our model and as PyTorch's state dict."""
    state = torch_clip.random_state_dict(
        layers=preset.vision_layers,
        width=preset.vision_width,
        embed_dim=preset.embed_dim,
        image_size=preset.image_size,
        text_width=preset.text_width,
        text_layers=preset.text_layers,
    )
    _, leaves, _ = state_dict.from_torch(FAMILY, {name: x.numpy() for name, x in state.items()})
    graphdef = nnx.graphdef(trees.abstract_model(preset, dtype, kind=CLIP))
    leaves = {path: jnp.asarray(x) for path, x in leaves.items()}
    return nnx.merge(graphdef, trees.unflatten(leaves)), state


def cases(preset: CLIPConfig, batch: int, dtype, device) -> list[Case]:
    """Ours against each of PyTorch's ways."""
    model, state = model_and_state(preset, dtype)
    graphdef, params = extraction.fold(model, devices.make_mesh(jax.devices()[:1]))
    side = preset.image_size
    pixels_bhwc = np.random.default_rng(0).normal(size=(batch, side, side, 3)).astype(np.float32)
    images = jnp.asarray(pixels_bhwc)

    @jax.jit
    def forward(params, images_bhwc):
        dense_bhwc = nnx.merge(graphdef, params).dense_features(images_bhwc)
        return dense_bhwc, dense_bhwc[0, 0, 0, :64].astype(jnp.float32).mean()

    def ours():
        return jax.block_until_ready(forward(params, images))[1]

    half = torch.bfloat16 if dtype == jnp.bfloat16 else torch.float32
    images_bchw = torch.from_numpy(pixels_bhwc).permute(0, 3, 1, 2).to(device, half)
    state = {name: x.to(device) for name, x in state.items() if name.startswith("visual.")}
    folded = {name: [x.to(half) for x in both] for name, both in torch_clip.folded(state).items()}
    state = {name: x.to(half) for name, x in state.items()}

    def eager(function, weights, layout=torch.channels_last):
        x = images_bchw.contiguous(memory_format=layout)

        @torch.inference_mode()
        def theirs():
            return function(weights, x)[0, :64, 0, 0].float().mean().item()

        return theirs

    best = eager(torch_clip.dense_folded, folded)
    peers = eager(torch_clip.dense, state, torch.contiguous_format)
    compiled = eager(lambda *args: _compiled(device.type)(*args), folded)
    flops = counted_flops(lambda model, x: model.dense_features(x), model, images)
    common = {
        "count": batch,
        "unit": "images of a batch",
        "trunk_flops": flops,
        "bytes": images.nbytes + sum(x.nbytes for x in jax.tree.leaves(nnx.state(model.visual))),
        "tolerance": 2e-3 if half == torch.float32 else 5e-2,
    }
    return [
        Case("trunk", ours, best, **common, note="channels last, norms folded, in place"),
        Case("trunk, peers' form", ours, peers, **common, note="default layout, norms apart"),
        Case("trunk, compiled", ours, compiled, **common, note="torch.compile of the first"),
    ]


@functools.cache
def _compiled(kind):
    return torch.compile(torch_clip.dense_folded, mode="max-autotune" if kind == "cuda" else None)
