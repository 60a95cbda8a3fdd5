"""A trial: one subset of images, and each method on it as it was tuned and chosen."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from safe_jax import backbones
from safe_jax.backbones.contract import Backbone, ImageTower
from safe_jax.bank.fresh_crops import FreshCrops
from safe_jax.bank.view import View
from safe_jax.checkpoints import state_dict, trees, weights
from safe_jax.classifier.classifier import Classifier, Origin
from safe_jax.classifier.evaluate import Reader
from safe_jax.classifier.pools import Pools
from safe_jax.data.datasets import Dataset, Transfer
from safe_jax.data.records import Record
from safe_jax.experiment.knobs import Config
from safe_jax.experiment.results import Candidate, RowKey
from safe_jax.methods.contract import Grid, Method, Recipe, Setting
from safe_jax.methods.text_head import TextHead
from safe_jax.methods.text_rows import text_rows
from safe_jax.runtime import devices
from safe_jax.runtime.paths import Path


@dataclasses.dataclass(frozen=True)
class Shared:
    """What all trials of an experiment share.

    `banks` has all images by use: `train`, `val`, `eval`, or the name of a transfer. `evaluated`
    has the images that the last trial was evaluated on, with arrays that no tuning changes.
    """

    config: Config
    config_hash: str
    weights_dir: Path
    data: Dataset
    transfers: Mapping[str, Transfer]
    workdir: pathlib.Path
    model: Backbone
    head: TextHead
    mesh: jax.sharding.Mesh
    banks: Mapping[str, View]
    evaluated: dict[tuple, tuple[np.ndarray, View]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def metadata(self) -> weights.Metadata:
        """What is known of the weights beside their arrays."""
        return backbones.read_metadata(self.weights_dir, self.config.image_size)

    @property
    def weights(self) -> str:
        """Name and digest of the pre-trained model, as rows have them."""
        return weights.name(self.weights_dir, self.metadata.digest)

    @functools.cached_property
    def released(self) -> str | None:
        """The name of the pre-trained model, where its weights are those that were released so."""
        name = self.config.weights  # and no path: of a name's file the sha256 is checked
        resized = self.metadata.digest != backbones.read_metadata(self.weights_dir).digest
        return name if name in backbones.NAMES and not resized else None

    @functools.cached_property
    def state(self) -> dict[str, np.ndarray]:
        """The pre-trained model's state dict, in the precision of its checkpoint."""
        arrays = {path: devices.fetch(x) for path, x in trees.flatten(self.model).items()}
        return state_dict.to_torch(self.metadata.family, arrays, self.metadata.extras)

    @functools.cached_property
    def tower(self) -> ImageTower:
        """The model without its text tower."""
        return self.model.image_tower()

    @functools.cached_property
    def heads(self) -> Mapping[str, TextHead]:
        """The text heads of transfers with classes of their own. No method starts from them."""
        made = {
            name: TextHead.of(self.model, text_rows(self.model, target.prompts))
            for name, target in self.transfers.items()
            if target.prompts
        }
        return devices.replicate(self.mesh, made)

    @property
    def unreadable(self) -> int:
        """How many images were left out, of the data set and of the transfers."""
        return self.data.unreadable + sum(target.unreadable for target in self.transfers.values())

    @property
    def reader(self) -> Reader:
        return Reader(self.mesh, self.config.eval_batch_size)


@dataclasses.dataclass(frozen=True)
class Subset:
    """The images of a trial: those it trains on, chooses with, and is evaluated on."""

    shots: int
    seed: int
    train: list[Record]
    val: list[Record]
    eval: list[Record]

    def records(self, use: str) -> list[Record]:
        """The images for `train`, `val` or `eval`."""
        return {"train": self.train, "val": self.val, "eval": self.eval}[use]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A method on a trial: its classifier, and how that was chosen.

    `grid` has the values that alpha, a and b were chosen from, and `val_accuracy` the accuracy on
    validation images at each of its points, None where nothing was chosen. `candidates` are the
    rates and decays, where there were several. `losses` are means over epochs, and `seconds` are
    those of the method alone.
    """

    classifier: Classifier
    grid: Grid
    at: tuple[int, ...]
    val_accuracy: np.ndarray | None
    candidates: list[Candidate]
    recipe: Recipe | None
    losses: np.ndarray | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class Trial:
    """The methods on one subset; arrays that several of them need are computed once.

    `key` identifies the trial's rows, `folder` is for checkpoints of what is being tuned.
    """

    shared: Shared
    subset: Subset
    key: RowKey
    folder: pathlib.Path
    outcomes: dict[str, Outcome] = dataclasses.field(default_factory=dict)
    _computed: dict[tuple, View] = dataclasses.field(default_factory=dict)

    @property
    def origin(self) -> Origin:
        shared = self.shared
        return Origin(shared.data.name, shared.weights, *self.key, shared.config_hash)

    def classifiers(self, names: Sequence[str]) -> dict[str, Classifier]:
        """Methods that are tuned already, by name."""
        return {name: self.outcomes[name].classifier for name in names}

    def setting(self, method: type[Method]) -> Setting:
        """What a method starts from on this trial."""
        online = self.shared.config.features == "online"
        return Setting(
            self.shared.model,
            self.shared.head,
            None if online else self.view(method, "train"),
            self.subset.shots,
            self.subset.seed,
            self.classifiers(method.after),
        )

    def train_images(self, method: type[Method]) -> View | FreshCrops:
        """What a method is tuned on."""
        shared, subset = self.shared, self.subset
        if shared.config.features == "online":
            image_dir, config = shared.data.image_dir, shared.config
            return FreshCrops(
                shared.model, image_dir, subset.train, subset.seed, config, config.views
            )
        return self.view(method, "train")

    def view(self, method: type[Method], use: str) -> View:
        """The images for `train`, `val` or `eval`, or of a transfer, as a method takes them."""
        key = method.takes, method.after[:1], use
        if key not in self._computed:
            self._computed[key] = self._with_arrays(method, self.dense(use), use)
        return self._computed[key]

    def dense(self, use: str, records: Sequence[Record] | None = None) -> View:
        """Dense maps and the original pool's features, of all images for a use or of `records`."""
        bank = self.shared.banks[use]
        if use not in self.shared.transfers:
            return bank.select(self.subset.records(use) if records is None else records)
        target = self.shared.transfers[use]
        if target.prompts:
            return bank.select(target.records)
        among_k = np.isin(np.arange(len(self.shared.data.classnames)), target.classes)
        view = bank.select(target.records, target.classes)
        return dataclasses.replace(view, among_k=among_k)

    def _with_arrays(self, method, dense, use):
        tuned, owner = None, ""  # of the pool, where it is a tuned one
        if "tuned_bd" in method.takes:
            tuned = self.outcomes[method.after[0]].classifier.params["attnpool"]
            owner = f"{self.key} "
        functions = Pools.of(self.shared.model, tuned).functions(method.takes)
        if not functions:
            return dense.only(method.takes)
        key, reader = owner + " ".join(functions), self.shared.reader

        def compute():
            return dense.compute(key, functions, reader.batch_size, reader.mesh)

        if owner or use in ("train", "val"):
            return compute().only(method.takes)
        # Most often all trials are evaluated on the same images, and no tuning changes the pool.
        before = self.shared.evaluated.get((key, use))
        if before is None or not np.array_equal(before[0], dense.image_n):
            before = self.shared.evaluated[key, use] = dense.image_n, compute()
        return before[1].only(method.takes)
