"""Every knob of a config with its type, bounds and default; what identifies an experiment.

A config is flat: each room declares the settings that its functions read, `Config` has them all,
and a function that takes `DataSettings`, say, can be handed a `Config`. The knobs that a method has
for itself stand in a group of the method's name.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic
from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError
from pydantic import AfterValidator

from safe_jax.bank.store import BankSettings
from safe_jax.data import datasets
from safe_jax.data.datasets import Dataset, DataSettings, Transfer
from safe_jax.methods import catalogue
from safe_jax.methods.contract import BatchSize, Decay, Epochs, Knobs, Rate, Recipe
from safe_jax.methods.safe import SafeSettings
from safe_jax.runtime import devices, paths, schema
from safe_jax.runtime.errors import InputError
from safe_jax.runtime.schema import Bounds, Different, ListOrTuple, knob

SettingsT = TypeVar("SettingsT", bound=schema.Model)


def _not_empty(values: tuple) -> tuple:
    if not values:
        raise ValueError("at least one value is expected")
    return values


def _are_methods(names: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in names if name not in catalogue.METHODS]:
        known = ", ".join(catalogue.METHODS)
        raise ValueError(f"there is no {', '.join(unknown)}; choose from {known}")
    return names


NotEmpty = AfterValidator(_not_empty)
Seed = Annotated[int, AfterValidator(Bounds(ge=0, le=2**32 - 1))]
Shots = Annotated[int, AfterValidator(Bounds(ge=1, le=1_000_000))]
Rates = Annotated[tuple[Rate, ...], Different, ListOrTuple]
Decays = Annotated[tuple[Decay, ...], Different, ListOrTuple]
ImageSize = Annotated[int, AfterValidator(Bounds(ge=0, le=1 << 14))]
BASE_TO_NEW_SHOTS = (16,)  # CoCoOp's


class Config(DataSettings, BankSettings, SafeSettings, Recipe):
    """All knobs but those that a method has for itself."""

    weights: schema.Name = knob(
        "RN50",
        "the pre-trained model: RN50, RN101, RN50x4, RN50x16, RN50x64 or another name of "
        "docs/backbones.md (downloaded on first use), small (comes with the package), or a "
        "directory of tools/convert_torch_weights.py",
    )
    image_size: ImageSize = knob(
        0, "pixels of a side; other than the weights', positions are interpolated; 0: as theirs"
    )
    shots: Annotated[tuple[Shots, ...], Different, NotEmpty, ListOrTuple] = knob(
        (1, 2, 4, 8, 16), "labelled images a class"
    )
    seeds: Annotated[tuple[Seed, ...], Different, NotEmpty, ListOrTuple] = knob(
        (1, 2, 3), "of the subsets and of the order of training"
    )
    methods: Annotated[
        tuple[schema.Text, ...], AfterValidator(_are_methods), Different, NotEmpty, ListOrTuple
    ] = knob(("zero_shot", "safe"), "the methods that are compared, by their modules' names")
    epochs: Epochs = knob(50, "passes over the training images")
    batch_size: BatchSize = knob(64, "images of a step")
    learning_rates: Rates = knob(
        (), "if given, they replace every method's rate, and validation images choose one"
    )
    weight_decays: Decays = knob(
        (), "if given, they replace every method's decay, and validation images choose one"
    )
    features: Literal["bank", "online"] = knob(
        "bank",
        "where dense maps come from: the bank (each image once), or the trunk in every step, "
        "on fresh crops (online)",
    )
    protocol: Literal["few_shot", "tip_adapter", "base_to_new"] = knob(
        "few_shot",
        "tip_adapter: the way of the published figures, selection=full_val and seed 1 alone "
        "(without what they choose on test); base_to_new: CoCoOp's, the first half of the classes "
        "is tuned on, and both halves are evaluated, with 16 shots where shots is left as it is; "
        "rows and tables say so",
    )
    eval_split: Literal["test", "val"] = knob(
        "test", "what is evaluated on; val, the images that chose no alpha, is for choosing knobs"
    )
    eval_batch_size: Annotated[int, AfterValidator(Bounds(ge=1, le=16_384))] = knob(
        256, "images of a batch in evaluation"
    )
    checkpoint_every: Annotated[int, AfterValidator(Bounds(ge=1, le=10**9))] = knob(
        500, "steps between checkpoints"
    )
    save_classifiers: bool = knob(
        False, "keep what is tuned: a folder for `safe-jax predict` in WORKDIR/classifiers"
    )
    compilation_cache: bool = knob(
        True,
        "keep compiled programs in cache_dir for the next run (JAX_COMPILATION_CACHE_DIR wins)",
    )
    population: Annotated[int, AfterValidator(Bounds(ge=1, le=1024))] = knob(
        1,
        "tunings in one compiled program, all in the memory of the devices; for accelerators: "
        "on a CPU nothing is gained",
    )

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        online = self.features == "online"
        if online and (rest := [m for m in self.methods if catalogue.METHODS[m].needs_bank]):
            raise ValueError(f"{', '.join(rest)}: set config.features=bank, for these need a bank")
        if online and self.population > 1:
            raise ValueError(
                "config.population tunes members on rows of a bank: set config.features=bank, or "
                "config.population=1"
            )
        for name in ("learning_rates", "weight_decays"):
            if getattr(self, name) and self.selection == "fixed":
                raise ValueError(
                    f"config.{name} are chosen from on validation images, but "
                    "config.selection=fixed chooses nothing: use few_shot_val"
                )
        if self.protocol == "base_to_new" and self.eval_split == "val":
            raise ValueError(
                "config.protocol=base_to_new evaluates on test images, for nothing may be chosen "
                "by the new classes: set config.eval_split=test"
            )
        if self.protocol == "base_to_new" and self.transfer:
            raise ValueError(
                "config.transfer evaluates what was tuned on all classes, but "
                "config.protocol=base_to_new tunes on half of them: unset one"
            )
        if (self.eval_split, self.selection) == ("val", "full_val"):
            raise ValueError(
                "config.eval_split=val evaluates on validation images that chose no alpha, but "
                "with config.selection=full_val every validation image chose alpha: use "
                "few_shot_val"
            )
        return self


# No number in a row depends on these knobs, or the row has them in a column: the weights, shots,
# seed, and the digest of the images. An image size gives the weights another digest. The prompts
# are hashed themselves, wherever they come from.
_NOT_HASHED = {
    "data_root", "prompts_file", "weights", "image_size", "cache_dir", "workers",
    "trunk_batch_size", "eval_batch_size", "checkpoint_every", "population",
    "save_classifiers", "compilation_cache", "shots", "seeds", "methods", "unreadable",
}  # fmt: skip


def _groups() -> dict[str, type[Knobs]]:
    """The knobs of each method that has some for itself."""
    return {n: m.knobs for n, m in catalogue.METHODS.items() if m.knobs.model_fields}


def default_config() -> ConfigDict:
    """Every knob at its default; locked, so that a mistyped knob in a config is an error."""
    config = ConfigDict(Config().model_dump())
    for name, knobs in _groups().items():
        config[name] = ConfigDict(knobs().model_dump())
    return config.lock()


def help_text() -> str:
    """A line for each knob: default, bounds and meaning."""
    lines = schema.describe(Config)
    for name, knobs in _groups().items():
        lines += [f"{name}.{line}" for line in schema.describe(knobs)]
    return "\n".join(f"config.{line}" for line in lines)


def read(config: ConfigDict) -> Config:
    """The config with its values checked and automatic ones filled in; it cannot change any more.

    Raises `InputError` for a value that nothing can be done with.
    """
    if not isinstance(config, ConfigDict):
        raise InputError(f"a ConfigDict is expected as config, not a {type(config).__name__}")
    try:
        values = config.copy_and_resolve_references().to_dict()
    except RequiredValueError:
        raise InputError(
            "a knob of this config has no value yet (required_placeholder): set it as "
            "--config.knob=value"
        ) from None
    default = default_config().to_dict()
    schema.check_complete(values, default)
    for name in _groups():
        if isinstance(values[name], dict):
            schema.check_complete(values[name], default[name], f"{name}.")
    methods = values["methods"]
    # As they are in a config file, or in one text of a command line.
    if isinstance(methods, str):
        methods = (methods,)
    if isinstance(methods, tuple | list) and all(isinstance(name, str) for name in methods):
        names = [name.strip() for given in methods for name in given.split(",")]
        values["methods"] = tuple(filter(None, names))
    if values["protocol"] == "tip_adapter":
        values |= {"selection": "full_val", "seeds": (1,)}
    all_shots = Config.model_fields["shots"].default
    if values["protocol"] == "base_to_new" and values["shots"] == all_shots:
        values["shots"] = BASE_TO_NEW_SHOTS
    groups: Any = {name: (knobs, knobs()) for name, knobs in _groups().items()}
    kind = pydantic.create_model("Config", __base__=Config, **groups)
    return _resolve(schema.check(kind, values, "config."))


def _resolve(config: Config) -> Config:
    benchmark = datasets.benchmark_name(config)
    automatic: dict[str, Any] = {
        name: getattr(config, name).for_dataset(benchmark) for name in _groups()
    }
    if config.dtype == "auto":
        on_cpu = devices.available()[0].platform == "cpu"
        automatic["dtype"] = "float32" if on_cpu else "bfloat16"
    automatic["workers"] = config.workers or os.cpu_count()
    return config.model_copy(update=automatic)


def method_knobs(config: Config, name: str) -> dict[str, Any]:
    """The knobs of a method's groups, its own and those that it shares."""
    groups = [n for n in (*catalogue.METHODS[name].shares, name) if hasattr(config, n)]
    return {
        knob: value
        for group in groups
        for knob, value in sorted(getattr(config, group).model_dump().items())
    }


def for_method(config: Config, name: str, kind: type[SettingsT]) -> SettingsT:
    """Settings as a method sees them: its own knobs in the place of those at the top."""
    values = config.model_dump() | method_knobs(config, name)
    return kind.model_validate({field: values[field] for field in kind.model_fields})


def settings(config: Config, name: str) -> Any:
    """All that a method's functions read of a config."""
    return for_method(config, name, catalogue.METHODS[name].settings)


def recipes(config: Config, name: str) -> list[Recipe]:
    """How a method is tuned: a recipe for each rate and decay that validation is to choose from."""
    recipe = for_method(config, name, Recipe)
    return [
        recipe.model_copy(update={"learning_rate": rate, "weight_decay": decay})
        for rate in config.learning_rates or (recipe.learning_rate,)
        for decay in config.weight_decays or (recipe.weight_decay,)
    ]


def experiment_hash(
    config: Config, data: Dataset, weights_digest: str, transfers: Iterable[Transfer] = ()
) -> str:
    """Identifies an experiment: rows with the same hash belong together.

    A method's own knobs are a field of its rows, so that a method can join a file that has others.
    Transfers with classes of their own are hashed with these; what others depend on is hashed
    already.
    """
    values = sorted(config.model_dump().items())
    hashed = {k: v for k, v in values if k not in _NOT_HASHED and k not in catalogue.METHODS}
    sha = hashlib.sha256(
        json.dumps([hashed, weights_digest, data.classnames, data.prompts]).encode()
    )
    others = [target for target in transfers if target.prompts]
    for target in others:
        sha.update(json.dumps([target.name, target.prompts]).encode())
    for part in (*data.splits, *(target.records for target in others)):
        listing = "\n".join(f"{record.path} {record.label}" for record in part)
        sha.update(listing.encode("utf-8", "surrogateescape"))
    return sha.hexdigest()[:12]


def write_config(path: Any, config: Config) -> None:
    """Writes every knob into a file, for whoever reads the results."""
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True)
    paths.write(path, (text + "\n").encode())
