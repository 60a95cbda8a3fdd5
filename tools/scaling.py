"""Measures time and memory against work, and draws the plot of docs/performance.md.

    python -m tools.scaling [--output docs/scaling.svg] [--rounds 3] [--only SERIES ...]

Every point is measured in a process of its own, in turns: images through trunk and into a bank;
classes in a tuning of 4 images each; devices (fake ones, on the processors that there are) for one
and the same tuning; images that are classified; and whole runs of SAFE on drawn data sets, from
listing to rows, with all that is compiled for them. All are of the small CLIP. A line of JSON for
each point: the median of the seconds, and the most memory that its process held.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

SERIES = {
    "images": (512, 1024, 2048),
    "classes": (10, 100, 1000),
    "devices": (1, 2, 4, 8),
    "images predicted": (512, 1024, 2048),
    "classes of a run": (10, 30, 100, 300, 1000),
    "shots of a run": (1, 4, 16),
    "data sets of a run": (1, 2, 4),
}
SHOTS, EPOCHS, CLASSES = 4, 20, 100  # where they do not vary
# Whose layouts the drawn data sets have: several in a run are named as the benchmark's.
NAMES = "caltech101", "eurosat", "sun397", "ucf101"


def jpegs(count: int, folder: pathlib.Path) -> list[str]:
    """Writes so many JPEGs of ImageNet's size; gives their names."""
    import numpy as np
    import PIL.Image

    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    picture = PIL.Image.fromarray(pixels).resize((500, 375))
    names = [f"{number}.jpg" for number in range(count)]
    for name in names:
        picture.save(folder / name)
    return names


def extract(images: int, folder: pathlib.Path) -> float:
    """Seconds to decode so many JPEGs and to store what the small CLIP's trunk makes of them."""
    import jax.numpy as jnp

    from configs import default
    from safe_jax import clip
    from safe_jax.bank import store
    from safe_jax.experiment import knobs
    from safe_jax.runtime import devices

    names = jpegs(images, folder)
    given = default.get_config()
    given.cache_dir = str(folder)
    config = knobs.read(given)
    mesh = devices.make_mesh()
    model = clip.load("small", jnp.float32, devices.replicated(mesh))
    warm = store.bank_spec(config, "warm", folder, names[: config.trunk_batch_size], views=1)
    store.load_or_extract(warm, model, mesh, config)  # compiles
    spec = store.bank_spec(config, "", folder, names, views=1)
    began = time.perf_counter()
    store.load_or_extract(spec, model, mesh, config)
    return time.perf_counter() - began


def tune(classes: int, folder: pathlib.Path) -> float:
    """Seconds to tune the small CLIP's pool on random maps, `SHOTS` of each class."""
    import numpy as np

    from configs import default
    from safe_jax import clip
    from safe_jax.bank.view import View
    from safe_jax.experiment import knobs
    from safe_jax.methods.contract import Setting
    from safe_jax.methods.safe import Safe
    from safe_jax.methods.text_head import TextHead, unit
    from safe_jax.runtime import devices
    from safe_jax.tuning import fit
    from safe_jax.tuning.fit import Checkpoints, Job

    given = default.get_config()
    given.epochs = EPOCHS
    config = knobs.read(given)
    mesh = devices.make_mesh()
    model = clip.load("small", sharding=devices.replicated(mesh))
    rng = np.random.default_rng(0)
    count = SHOTS * classes
    dense = rng.exponential(size=(count, *model.config.dense_shape)).astype(np.float16)
    pooled = rng.normal(size=(count, model.config.embed_dim)).astype(np.float32)
    arrays = {"dense_bhwc": dense, "original_bd": pooled}
    view = View.of("random", arrays, np.arange(count) % classes)
    text_kd = unit(rng.normal(size=(classes, model.config.embed_dim)).astype(np.float32))
    setting = Setting(model, TextHead.of(model, text_kd), view, SHOTS, seed=0)
    job = Job(Safe.start(setting, config), view, seed=0)

    def run(name):
        began = time.perf_counter()
        fit.fit(job, config, mesh, Checkpoints.in_folder(folder / name))
        return time.perf_counter() - began

    run("warm")  # compiles
    return run("counted")


def classify(images: int, folder: pathlib.Path) -> float:
    """Seconds from so many JPEGs to logits, by a classifier on the small CLIP."""
    import jax.numpy as jnp

    from safe_jax import clip
    from safe_jax.classifier import predict
    from tools.benchmarks import random_classifier

    sources = [predict.Source(name, folder / name) for name in jpegs(images, folder)]
    classifier = random_classifier.make(clip.load("small"), jnp.float32)
    list(predict.score(classifier, sources[:1]))  # compiles
    began = time.perf_counter()
    list(predict.score(classifier, sources, images))
    return time.perf_counter() - began


def data_set(name: str, classes: int, shots: int, root: pathlib.Path) -> None:
    """Draws a data set in CoOp's layout: tiny pictures, one of each class to test."""
    import numpy as np
    import PIL.Image

    from safe_jax.data.layouts import LAYOUTS

    layout, rng = LAYOUTS[name], np.random.default_rng(0)
    folder = root / layout.image_dir
    folder.mkdir(parents=True)
    split = {"train": [], "val": [], "test": []}
    for part, count in zip(split, (shots, min(shots, 4), 1), strict=True):
        for label in range(classes):
            for number in range(count):
                file = f"{part}_{label}_{number}.jpg"
                pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
                PIL.Image.fromarray(pixels).resize((16, 16)).save(folder / file)
                split[part].append([file, label, f"thing {label}"])
    (root / layout.split_file).write_text(json.dumps(split))


def run(names: Sequence[str], classes: int, shots: int, folder: pathlib.Path) -> float:
    """Seconds of a whole run of SAFE on data sets of so many classes and shots."""
    from configs import default
    from safe_jax.experiment import run as experiment

    for name in names:
        data_set(name, classes, shots, folder / "data")
    given = default.get_config()
    given.update(
        dataset=",".join(names), data_root=str(folder / "data"), cache_dir=str(folder / "cache"),
        weights="small", methods=("safe",), shots=(shots,), seeds=(1,), epochs=EPOCHS,
    )  # fmt: skip
    began = time.perf_counter()
    experiment.run(given, folder / "run")
    return time.perf_counter() - began


def point(series: str, value: int) -> None:
    """Measures one point, in a process that does nothing else."""
    if series == "devices":
        import jax

        jax.config.update("jax_num_cpu_devices", value)
    functions = {
        "images": extract,
        "classes": tune,
        "devices": lambda _, folder: tune(CLASSES, folder),
        "images predicted": classify,
        "classes of a run": lambda value, folder: run(NAMES[:1], value, SHOTS, folder),
        "shots of a run": lambda value, folder: run(NAMES[:1], CLASSES, value, folder),
        "data sets of a run": lambda value, folder: run(NAMES[:value], CLASSES, SHOTS, folder),
    }
    with tempfile.TemporaryDirectory() as folder:
        seconds = functions[series](value, pathlib.Path(folder))
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "megabytes": megabytes}))


def measure(rounds: int, only: Sequence[str]) -> list[dict]:
    """All points of some series, `rounds` times in turns."""
    found = {(series, value): [] for series in only for value in SERIES[series]}
    for _ in range(rounds):
        for (series, value), taken in found.items():
            command = [sys.executable, "-m", "tools.scaling", "--point", series, str(value)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            taken.append(json.loads(done.stdout.splitlines()[-1]))
    return [
        {
            "series": series,
            "work": value,
            "seconds": round(statistics.median(one["seconds"] for one in taken), 3),
            "megabytes": round(statistics.median(one["megabytes"] for one in taken)),
        }
        for (series, value), taken in found.items()
    ]


def draw(rows: list[dict], output: pathlib.Path) -> None:
    """Seconds and memory of each series, one below the other, beside what is wanted of seconds."""
    from matplotlib.figure import Figure

    across = -(-len(SERIES) // 2)
    canvas = Figure(figsize=(2.8 * across, 9), layout="constrained")
    axes = canvas.subplots(4, across)
    for number, series in enumerate(SERIES):
        own = [row for row in rows if row["series"] == series]
        work = [row["work"] for row in own]
        top = 2 * (number // across)
        for axis, figure in zip(
            axes[top : top + 2, number % across], ("seconds", "megabytes"), strict=True
        ):
            values = [row[figure] for row in own]
            axis.plot(work, values, "o-", label="measured")
            if figure == "seconds":
                label, line = wanted(series, work, values)
                axis.plot(work, line, "k--", linewidth=1, label=label)
                axis.legend()
            if series.startswith("classes"):
                axis.set_xscale("log")
            axis.set_xticks(work, map(str, work))
            axis.minorticks_off()
            axis.set_ylim(bottom=0)
            axis.set_xlabel(series)
            axis.set_ylabel(figure)
    for axis in axes.T.reshape(across, 2, 2)[len(SERIES) % across - across :, 1].flat:
        axis.remove()
    canvas.savefig(output, metadata={"Date": None})


def wanted(series: str, work: list[int], seconds: list[float]) -> tuple[str, list[float]]:
    """What growth would be linear, and no more. A whole run has a part that does not grow."""
    first, last = seconds[0], seconds[-1]
    if series == "devices":
        return "the same", [first] * len(work)
    if series.endswith("of a run"):
        slope = (last - first) / (work[-1] - work[0])
        return "a straight line", [first + slope * (x - work[0]) for x in work]
    return "in proportion", [first * x / work[0] for x in work]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("docs/scaling.svg"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=SERIES, metavar="SERIES")
    parser.add_argument("--point", nargs=2, metavar=("SERIES", "WORK"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        point(args.point[0], int(args.point[1]))
        return
    rows = measure(args.rounds, args.only or tuple(SERIES))
    for row in rows:
        print(json.dumps(row))
    if not args.only:
        draw(rows, args.output)


if __name__ == "__main__":
    main()
