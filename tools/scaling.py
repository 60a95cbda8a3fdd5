"""Measures time and memory against work, and draws the plot of docs/performance.md.

    python -m tools.scaling [--output docs/scaling.svg] [--rounds 3]

Three series, every point in a process of its own, in turns: images through trunk and into a bank;
classes in a tuning of 4 images each; devices (fake ones, on the processors that there are) for one
and the same tuning. A line of JSON for each point: the median of the seconds, and the most memory
that its process held.
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

SERIES = {
    "images": (512, 1024, 2048),
    "classes": (10, 100, 1000),
    "devices": (1, 2, 4, 8),
}
SHOTS, EPOCHS, CLASSES = 4, 20, 100  # of what is tuned; classes where devices vary


def extract(images: int, folder: pathlib.Path) -> float:
    """Seconds to decode so many JPEGs and to store what the small CLIP's trunk makes of them."""
    import jax.numpy as jnp
    import numpy as np
    import PIL.Image

    from configs import default
    from safe_jax import clip
    from safe_jax.bank import store
    from safe_jax.experiment import knobs
    from safe_jax.runtime import devices

    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    picture = PIL.Image.fromarray(pixels).resize((500, 375))
    for number in range(images):
        picture.save(folder / f"{number}.jpg")
    given = default.get_config()
    given.cache_dir = str(folder)
    config = knobs.read(given)
    mesh = devices.make_mesh()
    model = clip.load("small", jnp.float32, devices.replicated(mesh))
    names = [f"{number}.jpg" for number in range(images)]
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


def point(series: str, value: int) -> None:
    """Measures one point, in a process that does nothing else."""
    if series == "devices":
        import jax

        jax.config.update("jax_num_cpu_devices", value)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if series == "images":
            seconds = extract(value, folder)
        else:
            seconds = tune(value if series == "classes" else CLASSES, folder)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "megabytes": megabytes}))


def measure(rounds: int) -> list[dict]:
    """All points, `rounds` times in turns."""
    found = {(series, value): [] for series, values in SERIES.items() for value in values}
    for _ in range(rounds):
        for (series, value), taken in found.items():
            command = [sys.executable, "-m", "tools.scaling", "--point", series, str(value)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
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
    """Seconds and memory of each series, beside what is proportional to the work."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(9, 5), layout="constrained")
    axes = canvas.subplots(2, len(SERIES))
    for column, series in enumerate(SERIES):
        own = [row for row in rows if row["series"] == series]
        work = [row["work"] for row in own]
        for axis, figure in zip(axes[:, column], ("seconds", "megabytes"), strict=True):
            values = [row[figure] for row in own]
            axis.plot(work, values, "o-", label="measured")
            first = values[0]
            if figure == "seconds":
                wanted = (
                    [first] * len(work)
                    if series == "devices"
                    else [first * x / work[0] for x in work]
                )
                label = "the same" if series == "devices" else "in proportion"
                axis.plot(work, wanted, "k--", linewidth=1, label=label)
                axis.legend()
            if series == "classes":
                axis.set_xscale("log")
            axis.set_xticks(work, map(str, work))
            axis.minorticks_off()
            axis.set_ylim(bottom=0)
            axis.set_xlabel(series)
            axis.set_ylabel(figure)
    canvas.savefig(output, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("docs/scaling.svg"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--point", nargs=2, metavar=("SERIES", "WORK"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        point(args.point[0], int(args.point[1]))
        return
    rows = measure(args.rounds)
    for row in rows:
        print(json.dumps(row))
    draw(rows, args.output)


if __name__ == "__main__":
    main()
