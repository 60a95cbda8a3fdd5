"""Predicting: from JPEGs on the disk to the probabilities of a tuned classifier.

Ours is `classifier.predict.score`, which `safe-jax predict` runs. PyTorch's side is a DataLoader
with a process for each core, which stay; then, in inference mode and compiled as one, the trunk in
its best form (channels last, batch norms folded, in place), its own attention for both pools, the
blend, the text classifier and the softmax. Batches are of the same size on both sides.

The floor has the operations of the trunk and of both pools as ours forms them, and beside them the
time that Pillow alone takes to read, decode, scale and crop, divided among the cores.

Evaluating has no row. For each image it takes a digest of the file more, and for all of them one
more batch, of the few mistakes that it shows with their attention; the rest is arithmetic on
logits.
"""

import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import torch

from safe_jax.checkpoints import state_dict, trees
from safe_jax.classifier import predict
from safe_jax.classifier.image_classifier import ImageClassifier
from safe_jax.classifier.predict import Source
from safe_jax.clip.family import FAMILY
from safe_jax.clip.model import CLIPConfig
from tools import torch_clip
from tools.benchmarks import input, random_classifier, trunk
from tools.benchmarks.harness import Case, counted_flops
from tools.benchmarks.random_classifier import ALPHA, SCALE

BATCH = predict.WIDTHS[-1]


def cases(
    preset: CLIPConfig, files: Sequence[pathlib.Path], dtype, device, workers: int,
    compiled: bool = True,
) -> list[Case]:  # fmt: skip
    """From `files` to probabilities, with as many workers on both sides.

    Args:
        workers: 0 is no process for PyTorch, and a thread for each core for ours.
        compiled: whether PyTorch's is, which takes long.
    """
    model, state = trunk.model_and_state(preset, dtype)
    classifier = random_classifier.make(model, dtype)
    sources = [Source(file.name, file) for file in files]

    def ours():
        scored = predict.score(classifier, sources, len(sources), workers or None)
        return np.concatenate([x.probabilities(classifier.temperature) for x in scored])

    half = torch.bfloat16 if dtype == jnp.bfloat16 else torch.float32
    weights = _weights(classifier, state, device, half)
    function = _probabilities
    if compiled:
        mode = "max-autotune" if device.type == "cuda" else None
        function = torch.compile(_probabilities, mode=mode)
    batches = _batches(files, preset.image_size, device, workers)

    @torch.inference_mode()
    def theirs():
        found = []
        for images_bchw in batches:
            images_bchw = images_bchw.to(
                device, half, non_blocking=True, memory_format=torch.channels_last
            )
            found.append(function(*weights, images_bchw).cpu().numpy())
        return np.concatenate(found)

    picture = jnp.zeros((1, preset.image_size, preset.image_size, 3))
    dense = jnp.zeros((1, *preset.dense_shape), jnp.float16)
    of_trunk = counted_flops(lambda model, x: model.dense_features(x), model, picture)
    of_pool = counted_flops(lambda pool, x: pool(x), model.attnpool, dense)
    decoding = input.parts(files, rounds=3)["pillow_cpu_ms"] / 1e3
    case = Case(
        "predict",
        ours,
        theirs,
        len(files),
        f"images, {workers} workers",
        flops=len(files) * 2 * of_pool,
        trunk_flops=len(files) * of_trunk,
        cpu_seconds=len(files) * decoding / max(workers, 1),
        tolerance=2e-3 if half == torch.float32 else 2e-2,
        note="one torch.compile of trunk, pools and head",
    )
    return [case]


def _weights(classifier: ImageClassifier, state: torch_clip.State, device, half) -> tuple:
    """What `_probabilities` takes before the images; `half` is the trunk's type."""
    inner = classifier.classifier
    pool = trees.flatten(inner.params["attnpool"])
    leaves = {f"attnpool/{path}": np.asarray(x) for path, x in pool.items()}
    tuned = {n: torch.tensor(x) for n, x in state_dict.to_torch(FAMILY, leaves).items()}
    original = {name: state[name] for name in tuned}
    convs = torch_clip.folded({n: x for n, x in state.items() if n.startswith("visual.")})
    return (
        {name: [x.to(device, half) for x in both] for name, both in convs.items()},
        *({name: x.to(device) for name, x in pool.items()} for pool in (original, tuned)),
        torch.tensor(np.asarray(inner.context.text_kd)).to(device),
    )


def _probabilities(convs, original, tuned, text_kd, images_bchw):
    dense_bchw = torch_clip.dense_folded(convs, images_bchw).float()
    tuned_bd, original_bd = (torch_clip.pool(pool, dense_bchw) for pool in (tuned, original))
    feature_bd = ALPHA * tuned_bd + (1 - ALPHA) * original_bd
    return (SCALE * torch.nn.functional.normalize(feature_bd, dim=-1) @ text_kd.T).softmax(-1)


def _batches(files, image_size: int, device, workers: int) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(
        input.Pictures(files, image_size),
        batch_size=BATCH,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=device.type == "cuda",
    )
