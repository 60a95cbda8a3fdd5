"""A trial: one subset of images, and what is done on it with a method: tune, select, evaluate.

`compare.py` says what each method is made of and which images it takes.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import time

import jax
import numpy as np
from flax import nnx
from ml_collections import FrozenConfigDict

from safe_jax import batches, clip, features, knobs, parallel, selection, train
from safe_jax.clip.attention_pool import AttentionPool
from safe_jax.data import datasets, sources
from safe_jax.errors import InputError
from safe_jax.methods.safe import Safe


@dataclasses.dataclass(frozen=True)
class LabelledBank:
    """A bank, and the records that it was made of in its order."""

    bank: features.Bank
    records: list[sources.Record]

    def find(self, records) -> tuple[np.ndarray, np.ndarray]:
        """Where `records` lie in the bank, and their labels."""
        position = {record: i for i, record in enumerate(self.records)}
        image_n = np.array([position[record] for record in records])
        return image_n, np.array([record.label for record in records])


@dataclasses.dataclass(frozen=True)
class Context:
    """What every trial of an experiment shares."""

    config: FrozenConfigDict
    data: datasets.Dataset
    transfers: dict[str, datasets.Transfer]
    banks: dict[str, LabelledBank]
    model: clip.CLIP
    text_kd: jax.Array
    mesh: jax.sharding.Mesh
    workdir: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Subset:
    """The images of a trial: what it trains on, chooses with, and is evaluated on."""

    shots: int
    seed: int
    train: list[sources.Record]
    val: list[sources.Record]
    eval: list[sources.Record]


@dataclasses.dataclass(frozen=True)
class Images:
    """Labelled images, as rows of a bank or of what was made of it.

    `among_k` tells of a transfer's among which classes answers are sought.
    """

    bank: features.Bank | features.Table
    image_n: np.ndarray
    label_n: np.ndarray
    among_k: np.ndarray | None = None

    @property
    def row_nv(self) -> np.ndarray:
        """Where every view of every image is."""
        return self.image_n[:, None] * self.bank.views + np.arange(self.bank.views)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What a method has become: its parameters, the rest, and the loss of every epoch."""

    params: dict
    tuning: train.Tuning
    losses: np.ndarray | None = None
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Trial:
    """The methods on one subset; what several of them need is computed once.

    `folder` is for the checkpoints of what is being tuned.
    """

    context: Context
    subset: Subset
    folder: pathlib.Path

    # The images of a use (train, val, eval, or a transfer's name), in each form that methods take
    # them in.

    def dense(self, use, records=None) -> Images:
        """Dense maps, and the original pool's features."""
        labelled = self.context.banks[use]
        if use not in self.context.transfers:
            return Images(labelled.bank, *labelled.find(records or getattr(self.subset, use)))
        target = self.context.transfers[use]
        image_n, label_n = labelled.find(target.records)
        classes = np.array(target.classes)
        among_k = np.isin(np.arange(len(self.context.data.classnames)), classes)
        return Images(labelled.bank, image_n, classes[label_n], among_k)

    def pooled(self, use) -> Images:
        """The original pool's features alone."""
        dense = self.dense(use)
        table = features.Table({"original_bd": dense.bank.pooled}, dense.bank.views)
        return dataclasses.replace(dense, bank=table)

    def unprojected(self, use) -> Images:
        """What reaches the original pool's projection."""
        made = _through(*nnx.split(self.context.model.attnpool), AttentionPool.unprojected)
        return self._table(use, unprojected_bc=made)

    def both_pools(self, use) -> Images:
        """The features of the original pool and of the one that SAFE tuned."""
        return self._both_pools[use]

    @functools.cached_property
    def _both_pools(self):
        params = train.join_params(self.safe.params, self.safe.tuning.frozen.params)["attnpool"]
        made = _through(self.safe.tuning.method.graphdef, params, AttentionPool.__call__)
        uses = [use for use in ("train", "val", "eval") if getattr(self.subset, use)]
        uses += self.context.transfers
        return {use: self._table(use, tuned_bd=made) for use in uses}

    def _table(self, use, **made) -> Images:
        """Every view of the images, with what functions make of their dense maps."""
        dense = self.dense(use)
        row_n = dense.row_nv.ravel()
        label_n = np.repeat(dense.label_n, dense.bank.views)
        every_view = Images(dataclasses.replace(dense.bank, views=1), row_n, label_n)
        parts = {name: [] for name in made}
        for batch in self.in_order(every_view):
            counts = np.asarray(batch["mask_b"]) > 0
            for name, function in made.items():
                parts[name].append(np.asarray(function(batch["dense_bhwc"]))[counts])
        arrays = {name: np.concatenate(found) for name, found in parts.items()}
        arrays["original_bd"] = dense.bank.pooled[row_n]
        table = features.Table(arrays, dense.bank.views)
        return dataclasses.replace(dense, bank=table, image_n=np.arange(len(dense.image_n)))

    def in_order(self, images: Images):
        """Batches of images, one after the other."""
        size = parallel.round_up(self.context.config.eval_batch_size, self.context.mesh)
        return batches.in_order(
            images.bank, images.image_n, images.label_n, size, self.context.mesh
        )

    # What is done with a method.

    def tune(self, name, config, method, params, context, images_of) -> Tuned:
        """The method after tuning on the subset.

        Args:
            images_of: one of the functions above, from a use to images.
        """
        began = time.time()
        count, views, mesh = len(self.subset.train), config.views, self.context.mesh
        plan = batches.plan(
            count, views, config.batch_size or count, config.epochs, self.subset.seed, mesh.size
        )
        if config.features == "online":
            make = functools.partial(
                batches.online, self.context.model, self.context.data.image_dir, self.subset.train,
                plan, self.subset.seed, config, mesh,
            )  # fmt: skip
        else:
            images = images_of("train")
            make = functools.partial(
                batches.from_bank, images.bank, images.image_n, images.label_n, plan, mesh
            )
        state, tuning = train.init(method, params, context, config, plan, mesh)
        own = json.dumps(knobs.own(config, name)).encode()
        folder = self.folder / f"{name}-{hashlib.sha256(own).hexdigest()[:8]}"
        state, losses = train.fit(state, tuning, plan.steps, make, folder)
        losses = losses.reshape(config.epochs, -1).mean(1)
        return Tuned(state.params, tuning, losses, time.time() - began)

    def as_is(self, method, params, context) -> Tuned:
        return Tuned(*train.as_is(method, params, context, self.context.mesh))

    def evaluate(self, tuned, grid, images) -> tuple[np.ndarray, np.ndarray]:
        accuracy, loss = train.evaluate(
            tuned.params, tuned.tuning, grid, self.in_order(images), images.among_k
        )
        if not np.isfinite(loss).all():  # the last step's update is in no loss
            raise InputError("what was tuned gives no finite logits: lower the learning rate")
        return accuracy, loss

    def choose(self, tuned, grid, images_of) -> tuple[tuple[int, ...], np.ndarray | None]:
        """Where in a grid validation images are best classified, and accuracy on them.

        The first point and None where nothing is to be chosen.
        """
        if not (grid and self.subset.val):
            return (0,) * len(grid), None
        accuracy, loss = self.evaluate(tuned, grid, images_of("val"))
        return selection.best_index(accuracy, loss), accuracy

    def measured(self, tuned, grid, images_of) -> dict:
        """The row of a method: chosen on validation images, then evaluated."""
        at, val = self.choose(tuned, grid, images_of)
        chosen = {name: values[i] for (name, values), i in zip(grid.items(), at, strict=True)}
        row = {
            "selection": self.context.config.selection if grid else "none",
            "alpha": None,
            **chosen,
        }
        point = {name: [value] for name, value in chosen.items()}
        row["transfer"] = {
            name: self.evaluate(tuned, point, images_of(name))[0].item()
            for name in self.context.transfers
        }
        if len(grid) == 1:  # for the plots of a report: nothing is chosen on "eval"
            accuracy, _ = self.evaluate(tuned, grid, images_of("eval"))
            row["curve"] = grid | ({} if val is None else {"val": val}) | {"eval": accuracy}
            accuracy = accuracy[at]
        else:  # a curve would take thousands of points
            accuracy, _ = self.evaluate(tuned, point, images_of("eval"))
            if val is not None:
                row["val_accuracy"] = val[at]
        row["accuracy"] = accuracy.item()
        return row if tuned.losses is None else row | {"losses": tuned.losses}

    @functools.cached_property
    def safe(self) -> Tuned:
        """SAFE's pool, on which SAFE-A stands too."""
        config = self.context.config
        made = Safe.init(self.context.model, self.context.text_kd, config)
        return self.tune("safe", config, *made, self.dense)


def _through(graphdef, params, function):
    return functools.partial(_apply, graphdef, params, function=function)


@functools.partial(jax.jit, static_argnames=("graphdef", "function"))
def _apply(graphdef, params, dense_bhwc, *, function):
    return function(nnx.merge(graphdef, params), dense_bhwc)
