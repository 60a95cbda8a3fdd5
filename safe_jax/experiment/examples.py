"""What a run shows beside its accuracy: a few images with the answers, and where the pools look.

Axes: b images of a batch, n images, h rows and w columns of cells, c channels, k classes.
"""

import dataclasses
import functools
import hashlib
import io
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import PIL.Image
from flax import nnx

from safe_jax.bank.view import View
from safe_jax.classifier import pools
from safe_jax.data import images
from safe_jax.data.datasets import Dataset
from safe_jax.data.preprocessing import Preprocessing
from safe_jax.data.records import Record
from safe_jax.experiment.trial import Outcome, Trial
from safe_jax.methods.contract import Batch
from safe_jax.runtime import devices, hosts, paths

COUNT = 10


def draw(records: Iterable[Record]) -> list[Record]:
    """The examples among `records`: the same always, whatever the results are."""
    records = sorted(records)
    return random.Random(0).sample(records, min(COUNT, len(records)))


def of_blend(trial: Trial, outcome: Outcome) -> dict[str, Any]:
    """Fields for the row of a method that blends two pools.

    `examples` are a few images, their answers by the original pool and by the chosen blend, and
    where both pools look; `attention_on_object` is the share of attention on objects, if the data
    set has their boxes.
    """
    shared, classifier = trial.shared, outcome.classifier
    data, pixels = shared.data, shared.model.config.preprocessing
    method: Any = classifier.method
    both = {
        "original": nnx.to_pure_dict(nnx.state(shared.model.attnpool)),
        "tuned": classifier.params["attnpool"],
    }

    def maps(view: View) -> dict[str, np.ndarray]:
        return attention(method.graphdef, both, shared.reader.batches(view))

    drawn = draw(trial.subset.eval)
    view = trial.dense("eval", drawn)
    original = dataclasses.replace(classifier, point={"alpha": 0.0})
    answers = {
        "zero_shot": original.probabilities(view, shared.reader),
        "blended": classifier.probabilities(view, shared.reader),
    }
    shown = [
        _describe(n, record, answers, maps_nhw, data)
        | {"image": _save_picture(data.image_dir, record.path, pixels, shared.workdir)}
        for maps_nhw in [maps(view)]
        for n, record in enumerate(drawn)
    ]
    fields: dict[str, Any] = {"examples": shown}
    if boxed := [record for record in trial.subset.eval if record.path in data.boxes]:
        on_boxed = maps(trial.dense("eval", boxed))
        fields["attention_on_object"] = on_object(boxed, on_boxed, data, pixels)
    return fields


def attention(
    graphdef: nnx.GraphDef, by_name: dict[str, Any], batches: Iterable[Batch]
) -> dict[str, np.ndarray]:
    """Where each pool looks, `(n, h, w)`: the mean over heads, summing to 1 over cells."""
    parts = [
        (
            devices.fetch(batch["mask_b"]) > 0,
            pools.attention(graphdef, by_name, batch["dense_bhwc"]),
        )
        for batch in batches
    ]
    return {
        name: np.concatenate([devices.fetch(maps[name])[counts_b] for counts_b, maps in parts])
        for name in by_name
    }


def _describe(n, record, answers_nk, maps_nhw, data) -> dict[str, Any]:
    """The label of image `n`, its answers, and the attention of both pools, for a row."""
    return {
        "label": data.classnames[record.label],
        **{
            name: {
                "class": data.classnames[p_nk[n].argmax()],
                "probability": round(float(p_nk[n].max()), 4),
            }
            for name, p_nk in answers_nk.items()
        },
        "attention": {name: x_nhw[n].round(4).tolist() for name, x_nhw in maps_nhw.items()},
    }


def _save_picture(image_dir, path, preprocessing, workdir) -> str:
    """Stores an image as the model sees it; returns where, seen from `workdir`."""
    name = hashlib.sha256(f"{paths.absolute(image_dir)}/{path}".encode()).hexdigest()[:16]
    file = workdir / "examples" / f"{name}-{preprocessing.size}.jpg"
    if hosts.is_first() and not file.exists():
        file.parent.mkdir(exist_ok=True)
        picture = io.BytesIO()
        pixels = images.load(images.Crop(image_dir / path), preprocessing, (1, 1))
        PIL.Image.fromarray(pixels).save(picture, "JPEG", quality=90)
        paths.write(file, picture.getvalue())
    return str(file.relative_to(workdir))


def on_object(
    records: Sequence[Record],
    maps_nhw: dict[str, np.ndarray],
    data: Dataset,
    preprocessing: Preprocessing,
) -> dict[str, float]:
    """Per cent of each pool's attention that lies in the objects' boxes, mean over images.

    A cell counts as far as a box covers it. `even` is the share that equal attention on all cells
    would give.
    """
    side = next(iter(maps_nhw.values())).shape[-1]
    covered_nhw = np.stack(
        [
            _covered(data.image_dir / r.path, tuple(data.boxes[r.path]), preprocessing, side)
            for r in records
        ]
    )
    shares = {name: (x_nhw * covered_nhw).sum((1, 2)).mean() for name, x_nhw in maps_nhw.items()}
    shares["even"] = covered_nhw.mean()
    return {name: round(100 * float(share), 3) for name, share in shares.items()}


@functools.lru_cache(1 << 14)  # all trials look at the same images
def _covered(path, box, preprocessing, side) -> np.ndarray:
    """The part of each of an image's cells that a box covers, `(h, w)`."""
    with path.open("rb") as file, PIL.Image.open(file) as image:
        left, top, right, bottom = images.box_in_view(box, image.size, preprocessing) * side
    start = np.arange(side)
    down_h = (np.minimum(bottom, start + 1) - np.maximum(top, start)).clip(0)
    across_w = (np.minimum(right, start + 1) - np.maximum(left, start)).clip(0)
    return down_h[:, None] * across_w
