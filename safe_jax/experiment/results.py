"""Results: a row for each number in `results.jsonl`, written by one run, read by any. Loads no JAX.

Axes of a row's lists: e epochs, g points of a grid.
"""

import json
import re
from typing import Annotated, Any, Literal, NamedTuple, Self

import pydantic
from pydantic import AfterValidator, Field

from safe_jax.classifier import chance
from safe_jax.classifier.evaluation import Attention
from safe_jax.experiment.row_lines import BucketObject, DiskFile
from safe_jax.runtime import paths, schema
from safe_jax.runtime.errors import InputError
from safe_jax.runtime.paths import Path
from safe_jax.runtime.schema import Bounds, Fraction, Name, NotNegative, Percent, Text
from safe_jax.runtime.schema import knob as field


def _equal_lengths(lists: dict[str, list[float]]) -> dict[str, list[float]]:
    if len({len(values) for values in lists.values()}) > 1:
        raise ValueError("lists of equal length are expected")
    return lists


def _is_digest(text: str) -> str:
    if not re.fullmatch("[0-9A-Za-z_-]{1,64}", text):
        raise ValueError("letters and digits are expected")
    return text


Number = Annotated[float, AfterValidator(Bounds(ge=-1e39, le=1e39))]  # all that float32 holds
Curve = Annotated[dict[str, list[Number]], AfterValidator(_equal_lengths)]
Large = Annotated[int, AfterValidator(Bounds(ge=1, le=10**9))]
Shots = Annotated[int, AfterValidator(Bounds(ge=1, le=10**6))]
Seed = Annotated[int, AfterValidator(Bounds(ge=0, le=2**32 - 1))]
Digest = Annotated[Text, AfterValidator(_is_digest)]  # a file is called so


class _Part(schema.Model, extra="ignore"):
    """A part of a row. A field that a newer version may have written is ignored."""


class Candidate(_Part):
    """A learning rate and weight decay to choose from; without accuracy where it diverged."""

    learning_rate: NotNegative
    weight_decay: NotNegative
    val_accuracy: Percent | None = None


class Answer(_Part):
    """The most probable class."""

    name: Text = Field(alias="class")
    probability: Fraction


class Example(_Part):
    """An image of the evaluation split, classified at alpha 0 and at the chosen alpha."""

    image: Text  # the path of its picture, from the workdir
    label: Text
    zero_shot: Answer
    blended: Answer
    attention: Attention


class Row(_Part):
    """A line of `results.jsonl`. A field that is None, or empty, is left out, but for `alpha`.

    In a row of base to new `new_accuracy` and `harmonic_mean` stay as well.
    """

    method: Name = field(..., "by its name in configs")
    shots: Shots = field(..., "training images a class")
    seed: Seed = field(..., "of the subset, and of the order of training")
    accuracy: Percent = field(..., "on the images of the split")
    images: Text | None = field(None, "digest of the names, sizes and times of the subset's files")
    dataset: Name = field(..., "evaluated on")
    config_hash: Digest = field(..., "digest of knobs, data and weights; equal in an experiment")
    weights: Text = field(..., "NAME@DIGEST of the pre-trained model")
    split: Literal["test", "val"] = field(..., "test, or val: validation images that chose nothing")
    protocol: Text | None = field(None, "config.protocol: few_shot, tip_adapter or base_to_new")
    released: Text | None = field(None, "the model's name, where its weights are those released so")
    classes: Large | None = field(None, "how many there are")
    eval_images: Large | None = field(None, "how many images of the split there are")
    selection: Text = field(..., "how values were chosen: config.selection, or none")
    alpha: Fraction | None = field(None, "chosen blend of the original pool (0) and the tuned (1)")
    b: NotNegative | None = field(None, "chosen sharpness of the cache")
    a: NotNegative | None = field(None, "chosen weight of the cache")
    point: dict[str, Number] = field({}, "chosen values on the method's other axes")
    learning_rate: NotNegative | None = field(None, "chosen among the candidates")
    weight_decay: NotNegative | None = field(None, "chosen among the candidates")
    candidates: list[Candidate] = field([], "all that were tuned, where there are several")
    curve: Curve = field({}, "a grid (g,) by its axis; accuracy (g,) on `val`, `eval`, in per cent")
    val_accuracy: Percent | None = field(None, "on validation images, where there is no curve")
    losses: list[Number] = field([], "mean training loss of each epoch, (e,)")
    examples: list[Example] = field([], "a few images, drawn before any result")
    attention_on_object: dict[str, Percent] = field({}, "per cent: `original`, `tuned`, `even`")
    seconds: NotNegative = field(
        ..., "of the method and of those it needs: SAFE-A's have SAFE's in them"
    )
    unreadable: Large | None = field(None, "images left out, also of transfers; None: all read")
    knobs: dict[str, Any] = field({}, "of this method alone")
    tuned_on: Text | None = field(None, "the data set, where it is not the one evaluated on")
    new_accuracy: Percent | None = field(None, "base_to_new: of new classes; accuracy: of base")
    harmonic_mean: Percent | None = field(None, "of accuracy and new_accuracy")
    closed_set: Text | None = field(None, "why there is no accuracy on classes not tuned on")

    @pydantic.model_validator(mode="after")
    def _has_what_was_chosen(self) -> Self:
        if self.candidates and None in (self.learning_rate, self.weight_decay):
            raise ValueError("beside candidates, learning_rate and weight_decay are expected")
        return self

    @property
    def key(self) -> "RowKey":
        return RowKey(self.shots, self.seed, self.images or "")

    @property
    def is_base_to_new(self) -> bool:
        return self.protocol == "base_to_new"

    @property
    def chance(self) -> str | None:
        """Says, of zero-shot alone, that it is no better than chance, if so and if known."""
        if self.method != "zero_shot" or not (self.classes and self.eval_images):
            return None
        right = round(self.accuracy * self.eval_images / 100)
        return chance.note(right, self.eval_images, self.classes)

    def line(self) -> str:
        """The row as JSON."""
        fields = self.model_dump(by_alias=True).items()
        always = {"alpha", *(("new_accuracy", "harmonic_mean") if self.is_base_to_new else ())}
        return json.dumps({k: v for k, v in fields if k in always or v not in (None, [], {})})


# Fields that the row of a transfer shares with the main row.
_OF_TRANSFER = {
    "method", "shots", "seed", "images", "config_hash", "weights", "released", "split",
    "protocol", "selection", "alpha", "a", "b", "point", "learning_rate", "weight_decay", "knobs",
    "seconds", "unreadable",
}  # fmt: skip


class Elsewhere(NamedTuple):
    """What a row of a transfer has of its own: accuracy (per cent), classes and images."""

    accuracy: float
    classes: int
    eval_images: int


class RowKey(NamedTuple):
    """Identifies a subset; `images` is the digest of its files."""

    shots: int
    seed: int
    images: str


class Results:
    """The rows of one experiment, in a file that several experiments may share.

    A row is on the disk whole before `add` returns; the half of a row that a killed run left is
    cut off. Of several hosts only the first opens the file. Use it as a context.

    Raises `InputError` while another run has the file, and for a line that is no `Row`. A file in
    a bucket cannot be locked: there, a second run goes unnoticed.
    """

    def __init__(self, path: Path, dataset: str, **common: str):
        """Opens the file, and makes it if needed.

        Args:
            dataset: the data set that is tuned on.
            common: fields of the experiment (`config_hash`, `weights`, `split`, `protocol`). Rows
                of transfers, which are of other data sets, have the same.
        """
        from safe_jax.runtime import hosts  # loads JAX, which a report does without

        self.path = path
        self.dataset = dataset
        self._file: DiskFile | BucketObject | None = None

        def open_and_read() -> list[str]:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = BucketObject(path) if paths.is_remote(path) else DiskFile(path)
            return [line.decode("latin-1") for line in self._file.lines]  # keeps any byte

        try:
            lines = [line.encode("latin-1") for line in hosts.on_first(open_and_read)]
            rows = _parse(path, lines)
        except InputError:
            self.close()
            raise
        self.rows = [row for row in rows if all(getattr(row, k) == v for k, v in common.items())]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file:
            self._file.close()

    def find(
        self, method: str, key: RowKey, knobs: dict[str, Any], dataset: str | None = None
    ) -> Row | None:
        """The row of a method with these knobs of its own, or None.

        Args:
            dataset: that of a transfer; by default the one that is tuned on.
        """
        wanted = method, key, dataset or self.dataset
        knobs = json.loads(json.dumps(knobs))  # as they are read from a file: tuples are lists
        for row in self.rows:
            if (row.method, row.key, row.dataset) == wanted and row.knobs == knobs:
                return row
        return None

    def add(self, row: Row) -> None:
        """Writes a row."""
        line = row.line().encode()
        if self._file:
            self._file.append(line)
        self.rows += _parse(self.path, [line])

    def add_all(self, row: Row, transfers: dict[str, Elsewhere]) -> None:
        """Writes a row, and before it a row for each transfer that has none yet.

        The main row comes last: where a killed run wrote it, the transfers are complete.
        """
        for name, found in transfers.items():
            if not self.find(row.method, row.key, row.knobs, name):
                common = row.model_dump(include=_OF_TRANSFER)
                self.add(Row(**common, **found._asdict(), dataset=name, tuned_on=row.dataset))
        self.add(row)


def read(path: Path) -> list[Row]:
    """The rows of a file. A run may be writing it: an unfinished last line is ignored.

    Raises `InputError` where there is no row, and for a line that is no `Row`.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such directory; name the --workdir of a run")
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} holds no {path.name}: name the --workdir of a run"
        ) from None
    if not lines:
        raise InputError(f"{path} holds no row: wait until the run has written one, or run anew")
    return _parse(path, lines)


def _parse(path: Path, lines: list[bytes]) -> list[Row]:
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(schema.read_json(Row, line, f"{path}, line {number}: "))
        except InputError as error:
            raise InputError(f"{error}; mend or remove the line") from None
    return rows
