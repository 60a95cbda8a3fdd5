"""The dense-feature bank: what the frozen trunk computes, stored once for many tunings.

A bank holds the dense maps of a list of images, several views each, and what the original pool
makes of them. It is memory-mapped; its name is a hash of all that it depends on (of the images
their paths, sizes and times of change), so one that is out of date is never found. Extraction
writes into a `.partial` folder, notes how far it got, goes on from there after being killed, and
renames the folder last.
"""

import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from flax import nnx

from safe_jax import parallel
from safe_jax.clip.model import CLIP
from safe_jax.data import images
from safe_jax.errors import InputError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Bank:
    """Features of `n` images in `views` views; row `image * views + view`.

    `dense` is `(n * views, h, w, c)`, memory-mapped; `pooled` is `(n * views, embed_dim)`
    float32, of the original pool, not normalised. View 0 is the centre crop.
    """

    dense: np.ndarray
    pooled: np.ndarray
    views: int

    @property
    def arrays(self) -> dict[str, np.ndarray]:
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
        return self.folder.exists()

    @property
    def paths(self) -> list[pathlib.Path]:
        return [crop.path for crop in self.crops[:: self.views]]


def bank_spec(config, weights_digest: str, root, names: list[str], views: int) -> BankSpec:
    """Describes the bank of the images `names` under `root`.

    A random view is seeded by the image's name and the view's number alone.
    """
    paths = [root / name for name in names]
    scale = config.crop_scale
    crops = [
        images.Crop(path, f"{name} {view}" if view else None)
        for path, name in zip(paths, names, strict=True)
        for view in range(views)
    ]
    contents = {
        "format": 1,
        "root": str(root.resolve()),
        "weights": weights_digest,
        "dtype": config.bank_dtype,
        "trunk_dtype": config.dtype,
        "views": views,
        "crop_scale": scale if views > 1 else None,
        "images": [[name, *_stamp(path)] for name, path in zip(names, paths, strict=True)],
    }
    key = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:20]
    return BankSpec(
        pathlib.Path(config.cache_dir).expanduser() / "banks" / key, crops, views, contents
    )


def _stamp(path):
    try:
        stat = path.stat()
    except OSError:
        return None, None  # said by the check before extraction, with all others
    return stat.st_size, stat.st_mtime_ns


@partial(jax.jit, static_argnames=("graphdef", "dtype"))
def extract_step(graphdef, params, pixels_bhwc, dtype):
    """8-bit pixels to dense maps of `dtype` and to the original pool's features of those."""
    model = nnx.merge(graphdef, params)
    dense_bhwc = model.dense_features(images.normalize(pixels_bhwc)).astype(dtype)
    return dense_bhwc, model.attnpool(dense_bhwc)


def _arrays(spec, clip_config):
    """Type and shape of the dense maps and of the pooled features."""
    rows = len(spec.crops)
    return (
        (np.dtype(spec.contents["dtype"]), (rows, *clip_config.dense_shape)),
        (np.dtype(np.float32), (rows, clip_config.embed_dim)),
    )


def check_space(specs: list[BankSpec], clip_config) -> None:
    """Raises `InputError` if the disk does not hold the banks that are still to be made."""
    specs = [s for s in specs if not s.done and not s.folder.with_suffix(".partial").exists()]
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
    spec.folder.parent.mkdir(parents=True, exist_ok=True)
    if spec.done:
        log.info("reusing the bank of %d maps in %s", len(spec.crops), spec.folder)
    else:
        with open(spec.folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be at the same bank: let it finish
            if not spec.done:
                _extract(spec, model, mesh, config)
    dense = np.load(spec.folder / "dense.npy", mmap_mode="r")
    return Bank(dense, np.load(spec.folder / "pooled.npy"), spec.views)


def _extract(spec, model, mesh, config):
    rows = len(spec.crops)
    folder = spec.folder.with_suffix(".partial")
    dense, pooled = _open_partial(folder, spec, model.config)
    progress_file = folder / "progress"
    first = int(progress_file.read_text()) if progress_file.exists() else 0
    if first:
        log.info("resuming the bank in %s at map %d of %d", spec.folder, first, rows)

    def write(start, stop, result):
        """Puts a batch into its place and notes that it is there."""
        dense_bhwc, pooled_bd = (np.asarray(x)[: stop - start] for x in result)
        if not np.isfinite(dense_bhwc).all():
            raise InputError(
                f"dense maps do not fit {config.bank_dtype}: set config.bank_dtype=float32"
            )
        dense[start:stop], pooled[start:stop] = dense_bhwc, pooled_bd
        dense.flush()
        pooled.flush()
        _write_atomically(progress_file, str(stop))
        bar.update(stop - start)

    graphdef, params = nnx.split(model)
    params = parallel.replicate(mesh, params)
    # A device always sees the same images together, whatever their number and wherever an earlier
    # try ended: the same bits come out.
    batch_size = config.trunk_batch_size * mesh.size
    starts = range(first, rows, batch_size)
    batches = images.load_batches(
        (spec.crops[start : start + batch_size] for start in starts),
        model.image_size,
        config.crop_scale,
        config.workers,
    )
    with tqdm.tqdm(total=rows, initial=first, unit=" images", desc="trunk", smoothing=0.1) as bar:
        before = None
        for start, pixels in zip(starts, batches, strict=True):
            stop = start + len(pixels)
            pixels = parallel.shard(mesh, parallel.pad_to(pixels, batch_size))
            result = extract_step(graphdef, params, pixels, jnp.dtype(config.bank_dtype))
            if before:  # the device works on this batch while the one before is written
                write(*before)
            before = start, stop, result
        if before:
            write(*before)
    folder.rename(spec.folder)


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
