"""A trial: one subset of images, and what is done on it with what was tuned: select, evaluate.

`compare.py` says what each method is made of and which images it takes, `tuning.py` tunes.
"""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
from flax import nnx
from ml_collections import FrozenConfigDict

from safe_jax import clip
from safe_jax.bank import batches, store
from safe_jax.classifier import selection
from safe_jax.clip.attention_pool import AttentionPool
from safe_jax.data import datasets
from safe_jax.data.records import Record
from safe_jax.runtime import devices
from safe_jax.tuning import loop, train


@dataclasses.dataclass(frozen=True)
class LabelledBank:
    """A bank, and the records that it was made of in its order."""

    bank: store.Bank
    records: list[Record]

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
    train: list[Record]
    val: list[Record]
    eval: list[Record]


@dataclasses.dataclass(frozen=True)
class Images:
    """Labelled images, as rows of a bank or of what was made of it.

    `among_k` tells of a transfer's among which classes answers are sought.
    """

    bank: store.Bank | store.Table
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
    learning_rate: float | None = None
    weight_decay: float | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """What validation images favour: one of the candidates, at a point of the method's grid.

    `val` is accuracy over the grid, None where nothing was chosen; `candidates` are rows that tell
    of each candidate, where there are several.
    """

    tuned: Tuned
    grid: dict[str, np.ndarray]
    at: tuple[int, ...]
    val: np.ndarray | None
    candidates: list[dict]
    seconds: float

    @property
    def point(self) -> dict[str, float]:
        return {
            name: values[i] for (name, values), i in zip(self.grid.items(), self.at, strict=True)
        }


@dataclasses.dataclass(frozen=True)
class Trial:
    """The methods on one subset; what several of them need is computed once.

    `key` tells the trial's rows from others, `folder` is for the checkpoints of what is being
    tuned, and `choices` has what each method that was tuned has become.
    """

    context: Context
    subset: Subset
    key: tuple[int, int, str]
    folder: pathlib.Path
    choices: dict[str, Choice] = dataclasses.field(default_factory=dict)

    @property
    def mesh(self) -> jax.sharding.Mesh:
        return self.context.mesh

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
        table = store.Table({"original_bd": dense.bank.pooled}, dense.bank.views)
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
        safe = self.choices["safe"].tuned
        params = train.join_params(safe.params, safe.tuning.frozen.params)["attnpool"]
        made = _through(safe.tuning.method.graphdef, params, AttentionPool.__call__)
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
            counts = devices.fetch(batch["mask_b"]) > 0
            for name, function in made.items():
                parts[name].append(devices.fetch(function(batch["dense_bhwc"]))[counts])
        arrays = {name: np.concatenate(found) for name, found in parts.items()}
        arrays["original_bd"] = dense.bank.pooled[row_n]
        table = store.Table(arrays, dense.bank.views)
        return dataclasses.replace(dense, bank=table, image_n=np.arange(len(dense.image_n)))

    def in_order(self, images: Images):
        """Batches of images, one after the other."""
        size = devices.round_up(self.context.config.eval_batch_size, self.context.mesh)
        return batches.in_order(
            images.bank, images.image_n, images.label_n, size, self.context.mesh
        )

    # What is done with a method.

    def choose(self, candidates: list[Tuned], grid, images_of) -> Choice:
        """The candidate, and the point of its grid, by which validation images are best classified.

        Args:
            images_of: one of the functions above, from a use to images.

        The first candidate, where there is no choice or no validation image. Raises
        `loop.DivergedError` where no candidate gives finite logits.
        """
        seconds = sum(tuned.seconds for tuned in candidates)
        if not self.subset.val or not (grid or len(candidates) > 1):
            return Choice(candidates[0], grid, (0,) * len(grid), None, [], seconds)
        val = images_of("val")
        accuracy, loss = (
            np.stack(parts)
            for parts in zip(*(self._rated(one, grid, val) for one in candidates), strict=True)
        )
        best, *at = selection.best_index(accuracy, loss)
        if not np.isfinite(loss[best]).all():
            raise loop.DivergedError(
                "what was tuned gives no finite logits: lower the learning rate"
            )
        told = [
            {
                "learning_rate": one.learning_rate,
                "weight_decay": one.weight_decay,
                "val_accuracy": accuracy[n].max() if np.isfinite(loss[n]).all() else None,
            }
            for n, one in enumerate(candidates)
        ]
        told = told if len(candidates) > 1 else []
        return Choice(candidates[best], grid, tuple(at), accuracy[best], told, seconds)

    def _rated(self, tuned, grid, images) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy and loss over a grid; the worst there are, for what did not stay finite."""
        if tuned.losses is None or np.isfinite(tuned.losses).all():
            accuracy, loss = self._measure(tuned, grid, images)
            if np.isfinite(loss).all():
                return accuracy, loss
        shape = [len(values) for values in grid.values()]
        return np.full(shape, -1.0), np.full(shape, np.inf)

    def _measure(self, tuned, grid, images) -> tuple[np.ndarray, np.ndarray]:
        return train.evaluate(
            tuned.params, tuned.tuning, grid, self.in_order(images), images.among_k
        )

    def _evaluate(self, tuned, grid, images) -> np.ndarray:
        accuracy, loss = self._measure(tuned, grid, images)
        if not np.isfinite(loss).all():  # the last step's update is in no loss
            raise loop.DivergedError(
                "what was tuned gives no finite logits: lower the learning rate"
            )
        return accuracy

    def measured(self, choice: Choice, images_of) -> dict:
        """The row of a method, of what was chosen."""
        tuned, grid, at = choice.tuned, choice.grid, choice.at
        row = {
            "selection": self.context.config.selection if grid or choice.candidates else "none",
            "alpha": None,
            **choice.point,
        }
        if choice.candidates:
            row["learning_rate"], row["weight_decay"] = tuned.learning_rate, tuned.weight_decay
            row["candidates"] = choice.candidates
        point = {name: [value] for name, value in choice.point.items()}
        row["transfer"] = {
            name: self._evaluate(tuned, point, images_of(name)).item()
            for name in self.context.transfers
        }
        if len(grid) == 1:  # for the plots of a report: nothing is chosen on "eval"
            accuracy = self._evaluate(tuned, grid, images_of("eval"))
            val = {} if choice.val is None else {"val": choice.val}
            row["curve"] = grid | val | {"eval": accuracy}
            accuracy = accuracy[at]
        else:  # a curve would take thousands of points
            accuracy = self._evaluate(tuned, point, images_of("eval"))
            if choice.val is not None:
                row["val_accuracy"] = choice.val[at]
        row["accuracy"] = accuracy.item()
        return row if tuned.losses is None else row | {"losses": tuned.losses}


def _through(graphdef, params, function):
    return functools.partial(_apply, graphdef, params, function=function)


@functools.partial(jax.jit, static_argnames=("graphdef", "function"))
def _apply(graphdef, params, dense_bhwc, *, function):
    return function(nnx.merge(graphdef, params), dense_bhwc)
