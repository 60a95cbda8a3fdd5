"""What a method declares and gives. Everything that is said or done about methods reads this.

A method is one class in one module. Its class attributes declare it; an object of it holds the
constants that are compiled into a step (so it is frozen and hashable), and its functions are pure.

Axes: b images of a batch, k classes, d channels of the joint space.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self

from pydantic import AfterValidator

from safe_jax.methods.text_head import TextHead
from safe_jax.runtime import schema
from safe_jax.runtime.schema import Bounds, Pattern, knob

if TYPE_CHECKING:
    import jax
    import numpy as np

    from safe_jax.backbones.contract import Backbone
    from safe_jax.bank.view import View

Params = dict[str, Any]
Batch = dict[str, "jax.Array"]
Grid = dict[str, "np.ndarray"]

# Greatest values lie far above all that is of use, and below what no machine can hold. A rate that
# is merely too high shows in the loss: its bound is about the greatest that float32 can follow.
Rate = Annotated[float, AfterValidator(Bounds(ge=0, le=1e30))]
Decay = Annotated[float, AfterValidator(Bounds(ge=0, le=1000))]
# Adam divides by it where a gradient is 0, so float32 has to tell it from 0.
Epsilon = Annotated[float, AfterValidator(Bounds(ge=1e-30, le=1))]
Epochs = Annotated[int, AfterValidator(Bounds(ge=1, le=100_000))]
WarmupEpochs = Annotated[float, AfterValidator(Bounds(ge=0, le=10_000))]
BatchSize = Annotated[int, AfterValidator(Bounds(ge=1, le=65_536))]
BatchSizeOrAll = Annotated[int, AfterValidator(Bounds(ge=0, le=65_536))]  # 0: all images
BelowOne = Annotated[float, AfterValidator(Bounds(ge=0, lt=1))]

# The arrays that a batch may have, beside `label_b` and `mask_b`. Dense maps and the original
# pool's features are stored in the bank; the other two are computed from the maps.
ARRAYS = (
    "dense_bhwc",  # dense maps
    "original_bd",  # features of the original pool, not normalised
    "unprojected_bu",  # input of the original pool's last projection
    "tuned_bd",  # features of the pool that the first method of `after` tuned
)


class Recipe(schema.Model):
    """How parameters are tuned: AdamW on a warm-up and a cosine. A method may have its own values.

    What was measured for these defaults, and how, is in docs/defaults.md.
    """

    trainable: Pattern = knob(
        "attnpool/.*", "a regular expression; parameters whose whole path matches it are trained"
    )
    learning_rate: Rate = knob(1e-4, "the peak, after the warm-up")
    weight_decay: Decay = knob(0.01, "decoupled from the gradient, as in AdamW")
    epochs: Epochs = knob(50, "passes over the training images")
    warmup_epochs: WarmupEpochs = knob(1.0, "the rate climbs linearly for so long")
    batch_size: BatchSizeOrAll = knob(64, "images of a step; 0: all images of the subset")
    b1: BelowOne = knob(0.9, "Adam's decay of the first moment")
    b2: BelowOne = knob(0.999, "Adam's decay of the second moment")
    eps: Epsilon = knob(1e-8, "safe in float32; peers that tune in float16 need 1e-4")


class Knobs(schema.Model):
    """The knobs that a method has for itself; none here."""

    def for_dataset(self, benchmark: str) -> Self:
        """The same, with the authors' values for a data set of the benchmark filled in."""
        return self


class TunedKnobs(Knobs):
    """The part of a `Recipe` that every tuned method but SAFE sets for itself."""

    trainable: Pattern = knob(".*", "parameters whose whole path matches it are trained")
    learning_rate: Rate = knob(1e-3, "the peak, after the warm-up")
    weight_decay: Decay = knob(0.01, "decoupled from the gradient, as in AdamW")
    epochs: Epochs = knob(50, "passes over the training images")
    warmup_epochs: WarmupEpochs = knob(1.0, "the rate climbs linearly for so long")
    batch_size: BatchSize = knob(64, "images of a step")


Selection = Literal["few_shot_val", "full_val", "fixed"]


class SelectionSettings(schema.Model):
    """How whatever a method leaves open is chosen."""

    selection: Selection = knob(
        "few_shot_val",
        "alpha, a and b are chosen on min(shots, 4) validation images a class, on all of them "
        "(full_val), or not at all (fixed)",
    )


class Fitted(Protocol):
    """A method as it was tuned and chosen before another one that builds on it."""

    @property
    def params(self) -> Params: ...

    @property
    def point(self) -> Mapping[str, float]: ...


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a method starts from: the model, the text classifier, and the labelled images.

    `train` has the training images in the arrays that the method takes; None where these are
    fresh crops that no bank holds. `earlier` has the methods of `after` by name.
    """

    model: "Backbone"
    head: TextHead
    train: "View | None"
    shots: int
    seed: int
    earlier: Mapping[str, Fitted] = dataclasses.field(default_factory=dict)

    @property
    def support(self) -> "View":
        """The training images, for a method that needs a bank."""
        if self.train is None:
            raise ValueError("fresh crops are in no bank")
        return self.train


class Start(NamedTuple):
    """A method before its first step.

    `params` is a tree of arrays that a recipe's pattern divides into trained and frozen ones;
    `context` is a tree of all else that loss and logits read.
    """

    method: "Method"
    params: Params
    context: Any


class Method(Protocol):
    """The contract. `methods/catalogue.py` lists what implements it."""

    label: ClassVar[str]
    """Its name for people, in tables and figures."""
    knobs: ClassVar[type[Knobs]]
    """The knobs that it has for itself; in a config they stand in a group of its name."""
    shares: ClassVar[tuple[str, ...]]
    """Methods whose groups of knobs it has as well."""
    settings: ClassVar[type[schema.Model]]
    """All knobs that its functions read, wherever in a config they stand."""
    takes: ClassVar[tuple[str, ...]]
    """The arrays of `ARRAYS` that its batches have."""
    after: ClassVar[tuple[str, ...]]
    """Methods that are tuned and chosen before it on the same images."""
    tunes: ClassVar[bool]
    """Whether anything is tuned."""
    needs_bank: ClassVar[bool]
    """Whether it reads stored features of the training images."""
    context: ClassVar[Any]
    """What its context is: a named tuple of arrays and of named tuples; None for a lone array."""
    open_classes: ClassVar[bool]
    """Whether a class is nothing but its row of text, so that other classes can be asked for."""
    blends: ClassVar[bool]
    """Whether alpha leads from the original pool to a tuned one, `params["attnpool"]`."""

    @classmethod
    def start(cls, setting: Setting, settings: Any) -> Start:
        """The method before its first step; `settings` is of the type that it declares."""
        ...

    @classmethod
    def grid(cls, settings: Any, earlier: Mapping[str, Fitted]) -> Grid:
        """The values among which selection chooses, by axis; no axis where nothing is chosen."""
        ...

    def loss(self, params: Params, context: Any, batch: Batch) -> "jax.Array":
        """The loss of each image, `(b,)`."""
        ...

    def logits(self, params: Params, context: Any, batch: Batch) -> Any:
        """Logits `(b, k)`; with a grid, a function of a value on its first axis, and so on.

        What a value on the first axis gives is then a function of one on the second, until logits
        come out: every axis costs only what depends on it.
        """
        ...


class Base:
    """What most methods declare alike."""

    label: ClassVar[str] = ""
    knobs: ClassVar[type[Knobs]] = Knobs
    shares: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[type[schema.Model]] = schema.Model
    takes: ClassVar[tuple[str, ...]] = ("original_bd",)
    after: ClassVar[tuple[str, ...]] = ()
    tunes: ClassVar[bool] = True
    needs_bank: ClassVar[bool] = True
    context: ClassVar[Any] = TextHead
    open_classes: ClassVar[bool] = False
    blends: ClassVar[bool] = False

    @classmethod
    def grid(cls, settings: Any, earlier: Mapping[str, Fitted]) -> Grid:
        return {}
