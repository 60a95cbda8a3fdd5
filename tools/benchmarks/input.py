"""Measures the input pipeline against PyTorch's DataLoader or Grain, from JPEG to batch, as ratios.

    python -m tools.benchmarks.input --images FOLDER [--against torch] [--workers 1 2] [--rounds 7]

The pictures in FOLDER are scaled to the size of ImageNet's, 500 x 375, and kept for the while of
the run. Ours is what runs use: threads, batches of 8-bit pixels, which the compiled step
normalises. Theirs is

torch: a DataLoader whose processes stay; each decodes and crops with Pillow as torchvision does,
and makes normalised float32 batches, which come through shared memory.

grain: Grain (pip install grain) with processes that stay, each making whole batches of 8-bit pixels
with our own `load`; they fill their buffers while ours is measured, a few batches of a turn, in
their favour.

grain_threads: the same with its threads, image by image.

All take turns, so that a drift of the machine hits all; ratios are those of medians, above 1 where
ours is faster. `cpu` is CPU time, which other work on the machine disturbs less; `to_first` is how
much faster it is than with the first number of workers. Last come the parts of an image's time on
one thread: `load` is all, `pillow` reads, decodes, scales and crops alone, `tiny` is a picture of
8 x 8 px, for which little is done but what is Python's, one thread at a time, of any image.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import random
import statistics
import tempfile
import time

import numpy as np
import PIL.Image
import torch

from safe_jax.data import images
from safe_jax.data.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing, normalize

SCALE = (0.8, 1)  # of random crops; there are none here


class Pictures(torch.utils.data.Dataset):
    """What torchvision's transforms for CLIP do, by Pillow and torch: float32 `(3, s, s)`."""

    def __init__(self, files, image_size):
        self.files, self.image_size = files, image_size
        self.mean, self.std = (torch.tensor(x).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, n):
        side = self.image_size
        with PIL.Image.open(self.files[n]) as image:
            width, height = image.size
            short = min(width, height)
            size = int(side * width / short), int(side * height / short)
            image = image.resize(size, PIL.Image.Resampling.BICUBIC)
        left, top = (round((x - side) / 2) for x in size)
        image = image.crop((left, top, left + side, top + side)).convert("RGB")
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div(255).sub_(self.mean).div_(self.std)


class Load:
    """Our own decoding, for Grain's workers to call."""

    def __init__(self, image_size):
        self.image_size = image_size

    def __call__(self, file):
        return images.load(images.Crop(file), Preprocessing(size=self.image_size), SCALE)


def input_pipeline(files, image_size, batch, workers, against):
    """Two functions that make all batches of `files` and return the mean of their first images."""

    def ours():
        crops = [images.Crop(file) for file in files]
        batches = [crops[at : at + batch] for at in range(0, len(crops), batch)]
        made = images.load_batches(batches, Preprocessing(size=image_size), SCALE, workers)
        return np.mean([normalize(pixels_bhwc[0]).mean() for pixels_bhwc in made])

    if against == "torch":
        loader = torch.utils.data.DataLoader(
            Pictures(files, image_size),
            batch_size=batch,
            num_workers=workers,
            persistent_workers=True,
            multiprocessing_context="spawn",
        )

        def theirs():
            return np.mean([pixels_bchw[0].mean().item() for pixels_bchw in loader])

        return ours, theirs

    import grain  # no part of the test extra
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain reads them
    source = grain.MapDataset.source(files)
    if against == "grain_threads":
        options = grain.ReadOptions(workers, 4 * batch)
        stream = source.map(Load(image_size)).to_iter_dataset(options).batch(batch)

        def theirs():
            return np.mean([normalize(pixels_bhwc[0]).mean() for pixels_bhwc in stream])

        return ours, theirs

    if len(files) % batch:
        raise ValueError(f"processes that stay need whole batches: {len(files)} of {batch}")
    stream = source.repeat().map(Load(image_size)).batch(batch)
    stream = stream.to_iter_dataset(grain.ReadOptions(1, 1))
    stream = iter(stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)))

    def theirs():
        made = (next(stream) for _ in range(len(files) // batch))
        return np.mean([normalize(pixels_bhwc[0]).mean() for pixels_bhwc in made])

    return ours, theirs


def cpu_seconds():
    """CPU time of this process and of its children (Linux)."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # in user and in system mode
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def take_turns(pairs, rounds):
    """Seconds and CPU seconds, medians of `rounds` turns after one that is not counted.

    Returns `[pair][ours, theirs][seconds, CPU seconds]`.
    """
    means = [function() for pair in pairs for function in pair]
    if np.ptp(means) > 1e-5:
        raise AssertionError(f"not the same images: means {means}")
    taken = [[[], []] for _ in pairs]
    for _ in range(rounds):
        for pair, of_pair in zip(pairs, taken, strict=True):
            # Ours has no processes: theirs may be filling their buffers.
            clocks = time.process_time, cpu_seconds
            for function, clock, seconds in zip(pair, clocks, of_pair, strict=True):
                began, cpu_began = time.perf_counter(), clock()
                function()
                seconds.append((time.perf_counter() - began, clock() - cpu_began))
    return np.median(taken, axis=2)


def copies(folder, count, into):
    """Pictures of a folder in the size of ImageNet's, on their side where theirs was."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if len(found) < count:
        raise SystemExit(f"error: {folder} has {len(found)} JPEGs, not {count}; see --count")
    made = []
    for n, path in enumerate(random.Random(0).sample(found, count)):
        made.append(into / f"{n}.jpg")
        with PIL.Image.open(path) as image:
            size = (500, 375) if image.width >= image.height else (375, 500)
            image = image.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC)
        image.save(made[-1], quality=97)
    return made


def drawn(count, into):
    """Pictures of that size of nothing: coloured clouds with grain, some 80 KB a file."""
    made = []
    for n in range(count):
        rng = np.random.default_rng(n)
        clouds = PIL.Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        clouds = np.asarray(clouds.resize((500, 375), PIL.Image.Resampling.BICUBIC), np.float32)
        pixels = (clouds + rng.normal(0, 12, clouds.shape)).clip(0, 255).astype(np.uint8)
        made.append(into / f"{n}.jpg")
        PIL.Image.fromarray(pixels).save(made[-1], quality=85)
    return made


def copies_or_drawn(folder, count, into):
    """Pictures of a folder, if there is one, else drawn ones."""
    into.mkdir(exist_ok=True)
    return copies(folder, count, into) if folder else drawn(count, into)


def cases(folder, into, workers, count=256, image_size=224, batch=32):
    """Against the DataLoader, with as many workers on both sides."""
    from tools.benchmarks.harness import Case  # has JAX, and workers import this module

    files = copies_or_drawn(folder, count, into)
    ours, theirs = input_pipeline(files, image_size, batch, workers, "torch")
    return [Case("input_pipeline", ours, theirs, count, f"images, {workers} workers")]


def parts(files, rounds=9):
    """Milliseconds of CPU for an image: all of ours, what of it is Pillow's, and a tiny one's.

    Of 8 x 8 px there is little to do but what is Python's of any image.
    """
    small = files[0].with_name("tiny.jpg")
    PIL.Image.new("RGB", (8, 8)).save(small)

    def pillow(file):
        with file.open("rb") as opened, PIL.Image.open(opened) as image:
            wide = image.width >= image.height
            size = (298, 224) if wide else (224, 298)
            image = image.resize(size, PIL.Image.Resampling.BICUBIC)
            return image.crop((37, 0, 261, 224) if wide else (0, 37, 224, 261))

    def load(file):
        return images.load(images.Crop(file), Preprocessing(size=224), SCALE)

    def tiny(_):
        return images.load(images.Crop(small), Preprocessing(size=8), SCALE)

    taken = {load: [], pillow: [], tiny: []}
    for _ in range(rounds):
        for function, ms in taken.items():
            began = time.process_time()
            for file in files:
                function(file)
            ms.append(1e3 * (time.process_time() - began) / len(files))
    return {f"{function.__name__}_cpu_ms": statistics.median(ms) for function, ms in taken.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=pathlib.Path, required=True, metavar="FOLDER")
    parser.add_argument("--against", choices=("torch", "grain", "grain_threads"), default="torch")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        files = copies(args.images, args.count, folder)
        pairs = [
            input_pipeline(files, args.image_size, args.batch, workers, args.against)
            for workers in args.workers
        ]
        ms = 1e3 * take_turns(pairs, args.rounds) / args.count
        of_one = parts(files[:128])
        kilobytes = statistics.mean(file.stat().st_size for file in files) / 1e3
    for workers, pair in zip(args.workers, ms, strict=True):
        row = {
            "what": "input_pipeline",
            "against": args.against,
            "workers": workers,
            "kilobytes": round(kilobytes),
        }
        for name, (wall, cpu) in zip(("ours", "theirs"), pair, strict=True):
            row |= {f"{name}_ms_per_image": round(wall, 2), f"{name}_cpu_ms": round(cpu, 2)}
        row["ratio"], row["cpu_ratio"] = (pair[1] / pair[0]).round(2).tolist()
        row["ours_to_first"], row["theirs_to_first"] = (ms[0] / pair)[:, 0].round(2).tolist()
        print(json.dumps(row))
    print(json.dumps({"what": "parts"} | {name: round(ms, 3) for name, ms in of_one.items()}))


if __name__ == "__main__":
    main()
