"""What trials start from: the images of each use, a bank for each, the model and the text head."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from safe_jax import backbones
from safe_jax.backbones.contract import Backbone
from safe_jax.bank import store
from safe_jax.bank.store import BankSpec
from safe_jax.bank.view import View
from safe_jax.data import copies, images, readable
from safe_jax.data.datasets import Dataset, Transfer
from safe_jax.data.records import BOX_MARGIN, Record, Splits
from safe_jax.experiment.knobs import Config
from safe_jax.experiment.results import RowKey
from safe_jax.experiment.trial import Subset
from safe_jax.methods.text_head import TextHead
from safe_jax.methods.text_rows import text_rows
from safe_jax.runtime import devices
from safe_jax.runtime.errors import InputError, counted, listing
from safe_jax.runtime.paths import Path

log = logging.getLogger(__name__)

_MOST_COMPARED = 20_000  # images of a data set that is looked through for copies whole


class Described(NamedTuple):
    """What is to be run on a data set: its listing, its transfers and its subsets."""

    config: Config
    data: Dataset
    transfers: Mapping[str, Transfer]
    subsets: list[Subset]


class ImagesOfUse(NamedTuple):
    """The images for a use (`train`, `val`, `eval`, or a transfer), and the bank they belong in."""

    spec: BankSpec
    records: Sequence[Record]


class Prepared(NamedTuple):
    """The model with its text head, the devices, and all images of each use."""

    model: Backbone
    head: TextHead
    mesh: jax.sharding.Mesh
    banks: Mapping[str, View]


def uses(described: Described, digest: str) -> dict[str, ImagesOfUse]:
    """A bank for each use, shared by all subsets: the trunk sees every image once."""
    config, data, transfers, subsets = described
    found = {}
    for use in ("train", "val", "eval"):
        records = sorted({record for subset in subsets for record in subset.records(use)})
        views = config.views if use == "train" else 1
        names = [record.path for record in records]
        spec = store.bank_spec(config, digest, data.image_dir, names, views)
        found[use] = ImagesOfUse(spec, records)
    for target in transfers.values():
        names = [record.path for record in target.records]
        spec = store.bank_spec(config, digest, target.image_dir, names, views=1)
        found[target.name] = ImagesOfUse(spec, target.records)
    return found


def keys(subsets: Sequence[Subset], of_uses: Mapping[str, ImagesOfUse]) -> list[RowKey]:
    """Shots, seed, and a digest of a subset's images as they are on the disk."""
    stamps = {
        use: {name: (name, *stamp) for name, *stamp in of_use.spec.contents.images}
        for use, of_use in of_uses.items()
    }
    found = []
    for subset in subsets:
        parts = [
            # The images of a transfer are the same for every subset.
            subset.records(use) if use in ("train", "val", "eval") else of_use.records
            for use, of_use in of_uses.items()
        ]
        used = [
            [stamps[use][record.path] for record in part]
            for use, part in zip(of_uses, parts, strict=True)
        ]
        sha = hashlib.sha256(json.dumps(used).encode())
        found.append(RowKey(subset.shots, subset.seed, sha.hexdigest()[:12]))
    return found


def prepare(
    described: Described,
    of_uses: Mapping[str, ImagesOfUse],
    directory: Path,
    checked: bool = False,
) -> Prepared:
    """Loads the model and obtains the banks, once the files that will be read are `checked`."""
    config, data = described.config, described.data
    mesh = devices.make_mesh()
    log.info(
        "%s: %s; %s images; weights %s; %d x %s",
        data.name, counted(len(data.classnames), "class"), _counts_of(data.splits), directory,
        mesh.size, mesh.devices.flat[0].device_kind,
    )  # fmt: skip
    online = config.features == "online"
    specs = {
        use: of_use.spec
        for use, of_use in of_uses.items()
        if of_use.records and not (online and use == "train")
    }
    unread = {
        file
        for use, of_use in of_uses.items()
        if use not in specs or not of_use.spec.done
        for file in of_use.spec.files
    }
    if not checked:
        readable.check(sorted(unread, key=str), config.workers)
    _check_boxes(described)
    _warn_of_copies(described)
    model = backbones.load(
        directory, jnp.dtype(config.dtype), devices.replicated(mesh), image_size=config.image_size
    )
    head = TextHead.of(model, text_rows(model, data.prompts))
    _check_finite(head, directory)
    store.check_space(list(specs.values()), model.config)
    banks = {use: store.load_or_extract(spec, model, mesh, config) for use, spec in specs.items()}
    return Prepared(model, head, mesh, banks)


def _counts_of(splits: Splits) -> str:
    """How many images the parts have that have any: a fit knows of no test images."""
    parts = zip(splits, splits._fields, strict=True)
    *most, last = [f"{len(part)} {name}" for part, name in parts if part]
    return f"{', '.join(most)} and {last}" if most else last


def _check_finite(head: TextHead, directory: Path) -> None:
    """Raises `InputError` for a text head with which every logit would be no number."""
    named = {"features of the prompts": head.text_kd, "values of exp(logit_scale)": head.scale}
    for name, x in named.items():
        if not np.isfinite(devices.fetch(x)).all():
            raise InputError(
                f"{directory}: {name} are not finite: the weights are damaged; convert the "
                "checkpoint anew"
            )


def _warn_of_copies(described: Described) -> None:
    """Warns of copies in the whole data set, or in what is drawn of one that is large."""
    config, data, _, subsets = described
    if not any(subset.eval for subset in subsets):
        return  # whoever fits a classifier looks at all images
    parts: dict[str, Sequence[Record]] = dict(
        zip(("train", "val", "eval"), data.splits, strict=True)
    )
    if sum(map(len, parts.values())) > _MOST_COMPARED or config.eval_split == "val":
        parts = {use: sorted({r for s in subsets for r in s.records(use)}) for use in parts}
    copies.warn(parts, data.image_dir, data.classnames)


def _check_boxes(described: Described) -> None:
    """Raises `InputError` for boxes that lie outside their images, as of images of another size."""
    data = described.data
    asked = {r.path for subset in described.subsets for r in subset.eval} & data.boxes.keys()
    outside = []
    for path in sorted(asked):
        with images.opened(data.image_dir / path) as image:
            size = image.size
        if any(
            end > side + BOX_MARGIN for end, side in zip(data.boxes[path][2:], size, strict=True)
        ):
            outside.append(f"{path}: {list(data.boxes[path])} in {size[0]} x {size[1]} px")
    if outside:
        raise InputError(
            f"{len(outside)} boxes lie outside their images; [left, top, right, bottom] in pixels "
            "is expected:" + listing(outside)
        )
