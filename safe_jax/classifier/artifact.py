"""A classifier's folder: `classifier.json`, `model.safetensors` and `README.md`.

It needs nothing else. It is written whole or not at all, and verified when it is loaded: the
description has a digest of itself and of the tensors.

    backbone.NAME   the pre-trained model, under its checkpoint's names and in its precision
    params.PATH     the method's parameters, float32: the tuned pool, keys, rows of a classifier
    context.PATH    what the method reads beside them: rows of text, the scale
    earlier.PATH    the pool that the method before this one tuned
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx
from pydantic import Field

from safe_jax.checkpoints.trees import unflatten
from safe_jax.classifier import card
from safe_jax.classifier.classifier import Classifier, Origin
from safe_jax.classifier.image_classifier import Backbone, ImageClassifier, Making
from safe_jax.methods.catalogue import METHODS
from safe_jax.runtime import devices, paths, schema
from safe_jax.runtime.errors import InputError
from safe_jax.runtime.schema import Name, NotNegative, Text

DESCRIPTION, TENSORS, CARD = "classifier.json", "model.safetensors", "README.md"
FORMAT = 2
_LIBRARIES = ("safe_jax", "jax", "flax", "numpy", "pillow")


class Description(schema.Model):
    """`classifier.json`. `axes` are those that the method's logits take, in their order."""

    format: Literal[2] = FORMAT
    method: Name
    classes: list[Name]
    prompts: list[list[Text]]
    templates: list[Text]
    backbone: Backbone
    constants: dict[str, float | int | str | bool]
    axes: list[Text]
    alpha: NotNegative | None = None
    a: NotNegative | None = None
    b: NotNegative | None = None
    point: dict[str, float] = Field({})  # of the axes that have no field here
    temperature: NotNegative
    making: Making
    versions: dict[str, str]
    tensors_sha256: Text
    sha256: Text  # of all other fields, as `_digest` computes it


def save(classifier: ImageClassifier, folder: pathlib.Path) -> None:
    """Writes the folder. Raises `InputError` where it exists, `OSError` where it cannot be made."""
    check_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    tensors = safetensors.numpy.save(_tensors(classifier))
    described = _describe(classifier, hashlib.sha256(tensors).hexdigest())
    with paths.whole_folder(folder) as unfinished:
        for name, content in (
            (TENSORS, tensors),
            (DESCRIPTION, _json(described).encode()),
            (CARD, card.text(classifier, folder.name).encode()),
        ):
            paths.write(unfinished / name, content)


def check_new(folder: pathlib.Path) -> None:
    """Raises `InputError` where there is something already."""
    if paths.is_remote(folder):
        raise InputError(f"{folder}: a folder on a disk is expected")
    if folder.exists():
        raise InputError(f"{folder} exists already: remove it, or choose another folder")


def _describe(classifier: ImageClassifier, tensors_sha256: str) -> dict[str, Any]:
    inner = classifier.classifier
    point = {axis: float(value) for axis, value in inner.point.items()}
    fields = {
        "format": FORMAT,
        "method": inner.name,
        "classes": list(inner.classes),
        "prompts": [list(sentences) for sentences in classifier.prompts],
        "templates": list(classifier.templates),
        "backbone": classifier.backbone.model_dump(mode="json"),
        "constants": _constants(inner.method),
        "axes": list(point),
        **{axis: point.pop(axis) for axis in ("alpha", "a", "b") if axis in point},
        "point": point,
        "temperature": classifier.temperature,
        "making": classifier.making.model_dump(mode="json"),
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "tensors_sha256": tensors_sha256,
    }
    return fields | {"sha256": _digest(fields)}


def _json(described: Mapping[str, Any]) -> str:
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"


def _digest(described: Mapping[str, Any]) -> str:
    """The sha256 of a description without its field `sha256`."""
    rest = {name: value for name, value in described.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _constants(method: Any) -> dict[str, Any]:
    """What is compiled into a method, but for the graph of its pool, which the backbone gives."""
    return {name: getattr(method, name) for name in _constant_names(method) if name != "graphdef"}


def _constant_names(method: Any) -> list[str]:
    """The fields of a method's class or object, but not what the class declares."""
    return [field.name for field in dataclasses.fields(method)]


def _tensors(classifier: ImageClassifier) -> dict[str, np.ndarray]:
    inner = classifier.classifier
    trees = {
        "params": inner.params,
        "context": _as_dict(inner.context),
        "earlier": classifier.earlier_pool or {},
    }
    own = {
        f"{tree}.{path}" if path else tree: np.asarray(devices.fetch(x), order="C")
        for tree, content in trees.items()
        for path, x in _flat(content)
    }
    return {f"backbone.{name}": x for name, x in classifier.state.items()} | own


def _as_dict(context: Any) -> Any:
    """Named tuples as dicts, without fields that are None."""
    if not hasattr(context, "_asdict"):
        return context
    fields = context._asdict().items()
    return {name: _as_dict(x) for name, x in fields if x is not None}


def _flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for name, branch in tree.items():
        yield from _flat(branch, f"{path}/{name}" if path else str(name))


def load(folder: pathlib.Path) -> ImageClassifier:
    """Reads and verifies a folder. Raises `InputError` where it is not what `save` wrote."""
    described = read_description(folder)
    file = folder / TENSORS
    _verify_tensors(file, described)
    try:
        return _assembled(described, _Tensors(file))
    except Exception as error:  # digests can be made to fit what does not belong together
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise InputError(
            f"{folder} holds no classifier that can be used ({reason}): restore it, or fit again"
        ) from error


def _assembled(described: Description, opened: "_Tensors") -> ImageClassifier:
    state = _Part(opened, "backbone.")
    backbone = described.backbone
    tower = backbone.model(state)
    kind = METHODS[described.method]
    constants: dict[str, Any] = dict(described.constants)
    if "graphdef" in _constant_names(kind):
        constants["graphdef"] = nnx.split(tower.attnpool)[0]
    given: dict[str, Any] = {
        "alpha": described.alpha,
        "a": described.a,
        "b": described.b,
        **described.point,
    }
    making = described.making
    inner = Classifier(
        described.method,
        kind(**constants),
        opened.tree("params.") or {},
        _rebuilt(kind.context, opened.tree("context")),
        {axis: given[axis] for axis in described.axes},
        tuple(described.classes),
        Origin(
            making.dataset,
            f"{backbone.name}@{backbone.digest[:12]}",
            making.shots, making.seed, making.images, making.config_hash,
        ),
    )  # fmt: skip
    return ImageClassifier(
        inner, backbone, tower, state, described.temperature, described.prompts,
        described.templates, making, opened.tree("earlier.") or None,
    )  # fmt: skip


def read_description(folder: pathlib.Path) -> Description:
    """`classifier.json`, checked. Raises `InputError` where it is not what `save` wrote."""
    file = folder / DESCRIPTION
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder} holds no classifier ({DESCRIPTION}): make one with "
            f"`safe-jax fit PHOTOS --output {folder}`"
        ) from None
    given = schema.read_json(dict[str, Any], content, f"{file}: ")
    if (version := given.get("format")) != FORMAT:
        raise InputError(
            f"{file}: format={schema.shown(version)}: this version of safe_jax reads format "
            f"{FORMAT}: install the version that wrote it, or fit again"
        )
    if given.get("sha256") != _digest(given):
        raise InputError(f"{file} was changed after it was written: restore it, or fit again")
    described = schema.read_json(Description, content, f"{file}: ")
    if described.method not in METHODS:
        raise InputError(
            f"{file}: method={schema.shown(described.method)}: this version of safe_jax has "
            f"{', '.join(METHODS)}: install the version that wrote it, or fit again"
        )
    return described


def _verify_tensors(file: pathlib.Path, described: Description) -> None:
    try:
        with open(file, "rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{file} is missing: restore it, or fit again") from None
    if found != described.tensors_sha256:
        raise InputError(
            f"{file} is cut short or was changed (its sha256 is {found[:12]}..., expected "
            f"{described.tensors_sha256[:12]}...): restore it, or fit again"
        )


class _Tensors:
    """The tensors of a file, read when they are asked for."""

    def __init__(self, file: pathlib.Path):
        self._file: Any = safetensors.safe_open(file, "numpy")  # type: ignore[no-untyped-call]
        self.names: list[str] = sorted(self._file.keys())

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file.get_tensor(name)

    def tree(self, prefix: str) -> Any:
        """The tensors whose names begin so: a tree by the rest, or an array if there is no rest."""
        if prefix in self.names:
            return jnp.asarray(self[prefix])
        rest = {
            name.removeprefix(prefix).removeprefix("."): jnp.asarray(self[name])
            for name in self.names
            if name.startswith(prefix)
        }
        return unflatten(rest)


class _Part(Mapping[str, np.ndarray]):
    """The tensors with a prefix, by the rest of their names."""

    def __init__(self, tensors: _Tensors, prefix: str):
        self._tensors, self._prefix = tensors, prefix
        self._names = [n.removeprefix(prefix) for n in tensors.names if n.startswith(prefix)]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._tensors[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _rebuilt(kind: Any, tree: Any) -> Any:
    """A method's context of the tree that `_as_dict` made of it."""
    if not hasattr(kind, "_fields"):
        return tree
    types = kind.__annotations__
    return kind(**{name: _rebuilt(types[name], x) for name, x in tree.items()})


__all__ = ["Description", "check_new", "load", "read_description", "save"]
