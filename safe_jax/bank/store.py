"""The dense-feature bank: what the frozen trunk computes, stored once for many tunings.

A bank holds the dense maps of a list of images, several views each, and what the original pool
makes of them. Its rows are read as they are needed; its name is a hash of all that it depends on
(of the images their paths, sizes and times of change), so one that is out of date is never found.
Extraction writes into a `.partial` folder, notes how far it got, goes on from there after being
killed, and renames the folder last.

Of several hosts each decodes what its devices take, and has the whole bank on a disk of its own; of
those that share a disk the first writes. Whether a bank is done, and where extraction goes on, is
asked of all.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import random
import shutil
import time

import jax.numpy as jnp
import numpy as np
import tqdm

from safe_jax.bank import extraction
from safe_jax.bank.row_file import RowFile
from safe_jax.clip.model import CLIP
from safe_jax.data import images
from safe_jax.runtime import devices, hosts, paths
from safe_jax.runtime.errors import InputError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Bank:
    """Features of `n` images in `views` views; row `image * views + view`.

    `dense` is `(n * views, h, w, c)`, on the disk; `pooled` is `(n * views, embed_dim)` float32,
    of the original pool, not normalised. View 0 is the centre crop.
    """

    dense: RowFile | np.ndarray
    pooled: np.ndarray
    views: int

    @property
    def arrays(self) -> dict[str, RowFile | np.ndarray]:
        """What a batch has of it, by name."""
        return {"dense_bhwc": self.dense, "original_bd": self.pooled}


@dataclasses.dataclass(frozen=True)
class Table:
    """What a bank's maps were made into: arrays by name, rows as in the bank."""

    arrays: dict[str, np.ndarray]
    views: int


@dataclasses.dataclass(frozen=True)
class BankSpec:
    """What a bank is to hold, and where."""

    folder: pathlib.Path
    crops: list[images.Crop]
    views: int
    contents: dict

    @property
    def done(self) -> bool:
        """Whether every host has it."""
        return all(hosts.from_all(self.folder.exists()))

    @property
    def paths(self) -> list[pathlib.Path]:
        return [crop.path for crop in self.crops[:: self.views]]


def bank_spec(config, weights_digest: str, root, names: list[str], views: int) -> BankSpec:
    """Describes the bank of the images `names` under `root`.

    A random view is seeded by the image's name and the view's number alone.
    """
    files = [root / name for name in names]
    scale = config.crop_scale
    crops = [
        images.Crop(file, f"{name} {view}" if view else None)
        for file, name in zip(files, names, strict=True)
        for view in range(views)
    ]
    # Hosts may have the images in copies of their own, of other times: one tells for all.
    root, stamps = hosts.from_first(
        [str(paths.absolute(root)), hosts.is_first() and paths.stamps(files)]
    )
    contents = {
        "format": 2,
        "root": root,
        "weights": weights_digest,
        "dtype": config.bank_dtype,
        "trunk_dtype": config.dtype,
        "views": views,
        "crop_scale": scale if views > 1 else None,
        "images": [[name, *stamp] for name, stamp in zip(names, stamps, strict=True)],
    }
    key = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:20]
    return BankSpec(paths.cache(config.cache_dir) / "banks" / key, crops, views, contents)


def _arrays(spec, clip_config):
    """Type and shape of the dense maps and of the pooled features."""
    rows = len(spec.crops)
    return (
        (np.dtype(spec.contents["dtype"]), (rows, *clip_config.dense_shape)),
        (np.dtype(np.float32), (rows, clip_config.embed_dim)),
    )


def check_space(specs: list[BankSpec], clip_config) -> None:
    """Raises `InputError` if the disk does not hold the banks that are still to be made."""
    with hosts.raise_together():
        _check_space(specs, clip_config)


def _check_space(specs, clip_config):
    specs = [
        s for s in specs if not (s.folder.exists() or s.folder.with_suffix(".partial").exists())
    ]
    if not specs:
        return
    needed = sum(
        int(np.prod(shape)) * dtype.itemsize
        for spec in specs
        for dtype, shape in _arrays(spec, clip_config)
    )
    cache = specs[0].folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    if needed > (free := shutil.disk_usage(cache).free):
        raise InputError(
            f"the banks take {needed / 1e9:.1f} GB, but {cache} has {free / 1e9:.1f} GB free: set "
            "config.cache_dir to a folder on a larger disk"
        )


def load_or_extract(spec: BankSpec, model: CLIP, mesh, config) -> Bank:
    """The bank described: as it was stored, or extracted now.

    Raises `InputError` where the dense maps do not fit `bank_dtype`.
    """
    if spec.done:
        log.info("reusing the bank of %d maps in %s", len(spec.crops), spec.folder)
    else:
        writes = hosts.writes_in(spec.folder.parent)
        with _locked(spec.folder.with_suffix(".lock"), writes):
            if not spec.done:  # another run may have made it
                _extract(spec, model, mesh, config, writes and not spec.folder.exists())
    return Bank(RowFile(spec.folder / "dense.npy"), np.load(spec.folder / "pooled.npy"), spec.views)


@contextlib.contextmanager
def _locked(path, mine):
    """Keeps other runs from what all hosts do meanwhile; those that share a disk lock it once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        while not all(hosts.from_all(not mine or _try_lock(file))):
            # Waiting for a file with others in wait for this host might never end: let go of it.
            fcntl.flock(file, fcntl.LOCK_UN)
            time.sleep(random.uniform(0.2, 1))
        yield


def _try_lock(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _extract(spec, model, mesh, config, writes):
    rows = len(spec.crops)
    with hosts.raise_together():
        store = _Store(spec, model.config) if writes else None
    # Where disks are not shared, one may be behind the others: all do again what it lacks.
    first = min(at for at in hosts.from_all(store and store.stop) if at is not None)
    if first:
        log.info("resuming the bank in %s at map %d of %d", spec.folder, first, rows)

    def write(start, stop, result):
        """Puts a batch into its place and notes that it is there."""
        dense_bhwc, pooled_bd = (devices.fetch(x)[: stop - start] for x in result)
        if not np.isfinite(dense_bhwc).all():
            raise InputError(
                f"dense maps do not fit {config.bank_dtype}: set config.bank_dtype=float32"
            )
        if store:
            store.write(start, stop, dense_bhwc, pooled_bd)
        bar.update(stop - start)

    graphdef, params = extraction.fold(model, mesh)
    # A device always sees the same images together, whatever their number and wherever an earlier
    # try ended: the same bits come out.
    batch_size = config.trunk_batch_size * mesh.size
    starts = range(first, rows, batch_size)
    own = devices.own_rows(mesh, batch_size)
    batches = extraction.load_local(
        (spec.crops[start : start + batch_size] for start in starts), own, model, config
    )
    bar = tqdm.tqdm(
        total=rows, initial=first, unit=" images", desc="trunk", smoothing=0.1,
        disable=not hosts.is_first(),
    )  # fmt: skip
    with bar:
        before = None
        for start, pixels in zip(starts, batches, strict=True):
            pixels = devices.shard_own(mesh, pixels, batch_size)
            result = extraction.extract_step(graphdef, params, pixels, jnp.dtype(config.bank_dtype))
            if before:  # the device works on this batch while the one before is written
                write(*before)
            before = start, min(start + batch_size, rows), result
        if before:
            write(*before)
    if store:
        store.folder.rename(spec.folder)
    hosts.wait("the bank is there")


class _Store:
    """A bank that is being made: the rows before `stop` are there, from this try or an earlier."""

    def __init__(self, spec, clip_config):
        self.folder = spec.folder.with_suffix(".partial")
        self._arrays = _open_partial(self.folder, spec, clip_config)
        self._progress = self.folder / "progress"
        self.stop = int(self._progress.read_text()) if self._progress.exists() else 0

    def write(self, start, stop, *rows):
        for array, rows_of_it in zip(self._arrays, rows, strict=True):
            array[start:stop] = rows_of_it
            array.flush()
        _write_atomically(self._progress, str(stop))


def _open_partial(folder, spec, clip_config):
    """The two arrays to be filled: those of an earlier try, or new ones."""
    files = folder / "dense.npy", folder / "pooled.npy"
    contents = folder / "contents.json"  # written last: without it the arrays may be cut short
    if contents.exists():
        return [np.lib.format.open_memmap(file, mode="r+") for file in files]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    arrays = [
        np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
        for file, (dtype, shape) in zip(files, _arrays(spec, clip_config), strict=True)
    ]
    for file in files:  # on a disk that is full, writing to a map kills the process
        with open(file, "r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    _write_atomically(contents, json.dumps(spec.contents))
    return arrays


def _write_atomically(path, text):
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
