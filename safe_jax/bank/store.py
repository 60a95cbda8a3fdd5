"""The dense-feature bank: what the frozen trunk computes, stored once for many tunings.

A bank holds the dense maps of a list of images, several views each, and the original pool's
features of them. Its folder is named by a hash of all that it depends on (of the images their
paths, sizes and times of change), so a bank that is out of date is never found. Extraction writes
into a `.partial` folder, records its progress, goes on from there after being killed, and renames
the folder last.

Every host decodes the images that its devices take, and has the whole bank on a disk it can read;
of hosts that share a disk the first writes. All hosts agree whether a bank is done and where
extraction goes on.
"""

import contextlib
import dataclasses
import logging
import pathlib
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from pydantic import AfterValidator

from safe_jax.backbones.contract import Backbone, BackboneConfig
from safe_jax.bank import checksums, extraction
from safe_jax.bank.extraction import CropSettings
from safe_jax.bank.filling import FILES, BankContents, Filling
from safe_jax.bank.row_file import RowFile
from safe_jax.bank.view import View
from safe_jax.data import images
from safe_jax.runtime import devices, hosts, paths
from safe_jax.runtime.errors import InputError
from safe_jax.runtime.schema import Bounds, Text, knob

log = logging.getLogger(__name__)


class BankSettings(CropSettings):
    """How dense maps are computed and stored."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = knob(
        "auto", "what the trunk computes in; auto: bfloat16 on an accelerator, else float32"
    )
    bank_dtype: Literal["float16", "float32"] = knob("float16", "what dense maps are stored in")
    views: Annotated[int, AfterValidator(Bounds(ge=1, le=1000))] = knob(
        1, "of a training image: the centre crop, then random crops"
    )
    cache_dir: Text = knob(
        "~/.cache/safe_jax", "downloads and banks; for RN50 196 KiB an image and view"
    )
    trunk_batch_size: Annotated[int, AfterValidator(Bounds(ge=1, le=16_384))] = knob(
        32, "images a device in extraction"
    )


@dataclasses.dataclass(frozen=True)
class BankSpec:
    """A bank that exists or is to be made: its folder, and the crops that its rows are of."""

    folder: pathlib.Path
    crops: list[images.Crop]
    contents: BankContents

    @property
    def done(self) -> bool:
        """Whether every host has it."""
        return all(hosts.from_all(self.folder.exists()))

    @property
    def files(self) -> list[Any]:
        """The images' files."""
        return [crop.path for crop in self.crops[:: self.contents.views]]

    def arrays(self, config: BackboneConfig) -> list[tuple[np.dtype, tuple[int, ...]]]:
        """Type and shape of the dense maps and of the pooled features."""
        rows = len(self.crops)
        return [
            (np.dtype(self.contents.dtype), (rows, *config.dense_shape)),
            (np.dtype(np.float32), (rows, config.embed_dim)),
        ]


def bank_spec(
    settings: BankSettings, weights_digest: str, root: Any, names: Sequence[str], views: int
) -> BankSpec:
    """Describes the bank of the images `names` under `root`.

    A random view is seeded by the image's name and the view's number alone.
    """
    files = [root / name for name in names]
    crops = [
        images.Crop(file, f"{name} {view}" if view else None)
        for file, name in zip(files, names, strict=True)
        for view in range(views)
    ]
    # Hosts may have copies of the images with other times of change: the first host's count.
    root, stamps = hosts.from_first(
        [str(paths.absolute(root)), hosts.is_first() and paths.stamps(files)]
    )
    contents = BankContents(
        root=root,
        weights=weights_digest,
        dtype=settings.bank_dtype,
        trunk_dtype=settings.dtype,
        views=views,
        crop_scale=settings.crop_scale if views > 1 else None,
        images=[(name, *stamp) for name, stamp in zip(names, stamps, strict=True)],
    )
    return BankSpec(paths.cache(settings.cache_dir) / "banks" / contents.key(), crops, contents)


def check_space(specs: Sequence[BankSpec], config: BackboneConfig) -> None:
    """Raises `InputError` if the disk does not hold the banks that are still to be made."""
    with hosts.raise_together():
        _check_space([spec for spec in specs if not _is_begun(spec)], config)


def _is_begun(spec):
    return spec.folder.exists() or spec.folder.with_suffix(".partial").exists()


def _check_space(specs, config):
    if not specs:
        return
    needed = sum(
        int(np.prod(shape)) * dtype.itemsize
        for spec in specs
        for dtype, shape in spec.arrays(config)
    )
    cache = specs[0].folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    if needed > (free := shutil.disk_usage(cache).free):
        raise InputError(
            f"the banks take {needed / 1e9:.1f} GB, but {cache} has {free / 1e9:.1f} GB free: set "
            "config.cache_dir to a folder on a larger disk"
        )


def load_or_extract(
    spec: BankSpec, model: Backbone, mesh: jax.sharding.Mesh, settings: BankSettings
) -> View:
    """All images of the bank described: as it was stored, or extracted now.

    Raises `InputError` where the dense maps do not fit `bank_dtype`.
    """
    if _is_whole(spec, model.config):
        log.info("reusing the bank of %d maps in %s", len(spec.crops), spec.folder)
    else:
        writes = hosts.writes_in(spec.folder.parent)
        with _locked(spec.folder.with_suffix(".lock"), writes):
            # Another run may have made it while this one waited.
            if not _is_whole(spec, model.config, remove=writes):
                _extract(spec, model, mesh, settings, writes and not spec.folder.exists())
    arrays = {
        "dense_bhwc": RowFile(spec.folder / "dense.npy"),
        "original_bd": np.load(spec.folder / "pooled.npy"),
    }
    names = [name for name, *_ in spec.contents.images]
    image_n = np.arange(len(names))
    return View(spec.folder.name, arrays, spec.contents.views, image_n, paths=names)


def _is_whole(spec: BankSpec, config: BackboneConfig, remove: bool = False) -> bool:
    """Whether every host has the bank as it was written.

    A bank that is damaged on a host is no bank; with `remove` it goes.
    """
    if not spec.done:
        return False
    damages = hosts.from_all(checksums.damage(spec.folder, FILES, spec.arrays(config)))
    if damage := next(filter(None, damages), None):
        if remove:
            log.warning("the bank in %s is damaged and made anew: %s", spec.folder, damage)
            shutil.rmtree(spec.folder)
        return False
    return True


@contextlib.contextmanager
def _locked(path: pathlib.Path, writes: bool) -> Iterator[None]:
    """Holds an exclusive lock on `path` across all hosts; hosts that share a disk lock it once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    while not all(hosts.from_all(not writes or _acquired(lock))):
        # To wait for the file while others wait for this host might never end: let go of it.
        lock.release()
        time.sleep(random.uniform(0.2, 1))
    try:
        yield
    finally:
        lock.release()


def _acquired(lock):
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return False
    return True


def _extract(spec, model, mesh, settings, writes):
    rows = len(spec.crops)
    with hosts.raise_together():
        store = Filling(spec.folder, spec.contents, spec.arrays(model.config)) if writes else None
    # Where disks are not shared, one may be behind the others: all hosts redo what it lacks.
    first = min(at for at in hosts.from_all(store and store.stop) if at is not None)
    if first:
        log.info("resuming the bank in %s at map %d of %d", spec.folder, first, rows)
    # A device always sees the same images together, whatever their number and wherever an earlier
    # try ended: the same bits come out.
    batch_size = settings.trunk_batch_size * mesh.size
    bar = tqdm.tqdm(
        total=rows, initial=first, unit=" images", desc="trunk", smoothing=0.1,
        disable=not hosts.is_first(),
    )  # fmt: skip
    with bar:
        before = None
        for start, result in _extracted(spec, first, batch_size, model, mesh, settings):
            if before:  # the device works on this batch while the one before is written
                _write(store, *before, settings, bar)
            before = start, min(start + batch_size, rows), result
        if before:
            _write(store, *before, settings, bar)
    if store:
        store.folder.rename(spec.folder)
    hosts.wait("the bank is there")


def _extracted(spec, first, batch_size, model, mesh, settings):
    """The first row of each batch, from `first` on, and `extract_step` of its images."""
    graphdef, params = extraction.fold(model, mesh)
    starts = range(first, len(spec.crops), batch_size)
    crop_batches = (spec.crops[start : start + batch_size] for start in starts)
    local_rows = devices.own_rows(mesh, batch_size)
    pixels = extraction.load_local(crop_batches, local_rows, model.config.preprocessing, settings)
    for start, pixels_bhwc in zip(starts, pixels, strict=True):
        pixels_bhwc = devices.shard_own(mesh, pixels_bhwc, batch_size)
        dtype = jnp.dtype(settings.bank_dtype)
        yield start, extraction.extract_step(graphdef, params, pixels_bhwc, dtype)


def _write(store, start, stop, result, settings, bar):
    """Puts a batch into its place and records that it is there."""
    dense_bhwc, pooled_bd = (devices.fetch(x)[: stop - start] for x in result)
    _check_finite(dense_bhwc, pooled_bd, settings)
    if store:
        store.write(start, stop, dense_bhwc, pooled_bd)
    bar.update(stop - start)


def _check_finite(dense_bhwc, pooled_bd, settings):
    """Raises `InputError`, which names the cause, for what no method could do anything with."""
    if np.isfinite(dense_bhwc).all():
        if not (np.isfinite(pooled_bd).all() and pooled_bd.any(axis=1).all()):
            raise InputError(
                "the original pool gives features that are zero or not finite: the weights are "
                "damaged; convert the checkpoint anew"
            )
        return
    # Numbers that 16 bits do not hold become infinite; what is no number was none before.
    if settings.bank_dtype == "float16" and not np.isnan(dense_bhwc).any():
        raise InputError("dense maps do not fit float16: set config.bank_dtype=float32")
    if settings.dtype == "float16":
        raise InputError("the trunk's numbers do not fit float16: set config.dtype=float32")
    raise InputError(
        "the trunk gives dense maps that are not finite: the weights are damaged; convert the "
        "checkpoint anew"
    )
