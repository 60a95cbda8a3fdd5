"""What a run shows beside its accuracy: a few images with the answers, and where the pools look.

Axes: n images, h rows and w columns of cells, g alphas, k classes.
"""

import hashlib
import io
import random
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from flax import nnx

from safe_jax.data import images
from safe_jax.runtime import devices, hosts, paths
from safe_jax.tuning import train

COUNT = 10


def draw(records: list) -> list:
    """The examples among `records`: the same ones always, whatever the results are."""
    return random.Random(0).sample(sorted(records), min(COUNT, len(records)))


def of_safe(trial, alpha) -> dict:
    """What SAFE's row shows: a few images with the answers at `alpha`, and where the pools look."""
    context, tuned = trial.context, trial.choices["safe"].tuned
    data, size = context.data, context.model.image_size
    params = train.join_params(tuned.params, tuned.tuning.frozen.params)
    pools = {
        "original": nnx.to_pure_dict(nnx.state(context.model.attnpool)),
        "tuned": params["attnpool"],
    }

    def batches(records):
        return trial.in_order(trial.dense("eval", records))

    def maps(records):
        return attention(tuned.tuning.method.graphdef, pools, batches(records))

    chosen = draw(trial.subset.eval)
    zero_shot_nk, blended_nk = probabilities(
        params, tuned.tuning, np.array([0, alpha]), batches(chosen)
    )
    answers = {"zero_shot": zero_shot_nk, "blended": blended_nk}
    shown = {"examples": describe(chosen, answers, maps(chosen), data, size, context.workdir)}
    if boxed := [record for record in trial.subset.eval if record.path in data.boxes]:
        shown["attention_on_object"] = on_object(boxed, maps(boxed), data, size)
    return shown


def attention(graphdef, pools: dict, batches) -> dict[str, np.ndarray]:
    """Where each of `pools` looks, `(n, h, w)`: the mean over heads, summing to 1 over cells."""
    parts = [
        (devices.fetch(batch["mask_b"]) > 0, _attention(graphdef, pools, batch["dense_bhwc"]))
        for batch in batches
    ]
    return {
        name: np.concatenate([devices.fetch(maps[name])[counts] for counts, maps in parts])
        for name in pools
    }


@partial(jax.jit, static_argnames="graphdef")
def _attention(graphdef, pools, dense_bhwc):
    return {
        name: nnx.merge(graphdef, params).attention(dense_bhwc).mean(-1)
        for name, params in pools.items()
    }


def probabilities(params, tuning, alpha_g, batches) -> np.ndarray:
    """Of every class at every alpha, `(g, n, k)`."""
    alpha_g = jnp.asarray(alpha_g, jnp.float32)
    parts = []
    for batch in batches:
        counts = devices.fetch(batch["mask_b"]) > 0
        context, method = tuning.frozen.context, tuning.method
        found_gbk = _probabilities(params, context, batch, alpha_g, method=method)
        parts.append(devices.fetch(found_gbk)[:, counts])
    return np.concatenate(parts, 1)


@partial(jax.jit, static_argnames="method")
def _probabilities(params, context, batch, alpha_g, *, method):
    logits_at = method.logits(params, context, batch)
    return jax.lax.map(lambda alpha: jax.nn.softmax(logits_at(alpha)), alpha_g)


def describe(records, answers_nk: dict, maps_nhw: dict, data, image_size, workdir) -> list[dict]:
    """Each image for a row: picture, label, answers and attention; pictures go to `workdir`.

    Args:
        answers_nk: probabilities of the classes by the name of the answer.
        maps_nhw: attention by the name of the pool.
    """
    return [
        {
            "image": _save_picture(data.image_dir, record.path, image_size, workdir),
            "label": data.classnames[record.label],
            **{
                name: {
                    "class": data.classnames[p_nk[n].argmax()],
                    "probability": round(float(p_nk[n].max()), 4),
                }
                for name, p_nk in answers_nk.items()
            },
            "attention": {name: x_nhw[n].round(4) for name, x_nhw in maps_nhw.items()},
        }
        for n, record in enumerate(records)
    ]


def _save_picture(image_dir, path, image_size, workdir):
    """Stores what the model sees of an image; returns where, seen from `workdir`."""
    name = hashlib.sha256(f"{paths.absolute(image_dir)}/{path}".encode()).hexdigest()[:16]
    file = workdir / "examples" / f"{name}-{image_size}.jpg"
    if hosts.is_first() and not file.exists():
        file.parent.mkdir(exist_ok=True)
        picture = io.BytesIO()
        pixels = images.load(images.Crop(image_dir / path), image_size, None)
        PIL.Image.fromarray(pixels).save(picture, "JPEG", quality=90)
        paths.write(file, picture.getvalue())
    return str(file.relative_to(workdir))


def on_object(records, maps_nhw: dict, data, image_size) -> dict[str, float]:
    """Per cent of each pool's attention that lies in the objects' boxes, mean over images.

    A cell counts as far as a box covers it. `even` is what looking everywhere alike would give.
    """
    side = next(iter(maps_nhw.values())).shape[-1]
    covered_nhw = np.stack(
        [_covered(data.image_dir / r.path, data.boxes[r.path], image_size, side) for r in records]
    )
    shares = {name: (x_nhw * covered_nhw).sum((1, 2)).mean() for name, x_nhw in maps_nhw.items()}
    shares["even"] = covered_nhw.mean()
    return {name: round(100 * float(share), 3) for name, share in shares.items()}


def _covered(path, box, image_size, side):
    """The part of each of an image's cells that a box covers, `(h, w)`."""
    with path.open("rb") as file, PIL.Image.open(file) as image:
        left, top, right, bottom = images.box_in_center_crop(box, image.size, image_size) * side
    start = np.arange(side)
    down_h = (np.minimum(bottom, start + 1) - np.maximum(top, start)).clip(0)
    across_w = (np.minimum(right, start + 1) - np.maximum(left, start)).clip(0)
    return down_h[:, None] * across_w
