"""Tunes on a bank of ImageNet's size and prints memory and time: with and without preparing ahead.

    python -m tools.benchmarks.bank [--maps 16000] [--steps 40] [--rounds 3] [--folder DIR]
    python -m tools.benchmarks.bank --epochs 20 --batch 256

It writes a bank of 7 x 7 x 2048 maps in float16 (16,000 take 3.2 GB) of random numbers, which is
removed afterwards, and tunes RN50's pool on it in batches of 64, first reading each batch when the
step before is done, then with a thread that prepares the next ones. The two take turns. On a CPU
that thread takes its time from the step, so the same is done with a pause of 5 ms for a step, as
where an accelerator computes it. Then it reads the same rows through a memory map, in a process of
its own. `peak_mb` is the most memory that the process has held (VmHWM), `before_mb` what it held
before the steps that are measured: JAX, the model, its optimizer and its compiled step.

With `--epochs` it times a whole tuning and nothing else, on whatever device JAX finds: compiling is
left out, and on a device with memory of its own what puts the bank there is counted.
"""

import argparse
import json
import multiprocessing
import pathlib
import statistics
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from flax import nnx

from configs import default
from safe_jax.bank import batches
from safe_jax.bank.row_file import RowFile
from safe_jax.bank.view import View
from safe_jax.clip.attention_pool import AttentionPool
from safe_jax.clip.model import PRESETS
from safe_jax.experiment import knobs
from safe_jax.methods.contract import Start
from safe_jax.methods.safe import Safe
from safe_jax.methods.text_head import TextHead, unit
from safe_jax.runtime import devices
from safe_jax.tuning import fit, loop
from safe_jax.tuning.fit import Job

CLASSES = 1000


def write(folder: pathlib.Path, maps: int, clip_config) -> View:
    """A bank of random maps; the original pool's features are random too."""
    rng = np.random.default_rng(0)
    shape = (maps, *clip_config.dense_shape)
    file = folder / "dense.npy"
    with open(file, "wb") as opened:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(opened, header)
        for first in tqdm.trange(0, maps, 500, desc="writing", unit=" x 500 maps"):
            count = min(500, maps - first)
            opened.write(rng.random((count, *shape[1:]), np.float32).astype(np.float16).data)
    pooled = rng.normal(size=(maps, clip_config.embed_dim)).astype(np.float32)
    arrays = {"dense_bhwc": RowFile(file), "original_bd": pooled}
    return View.of("random", arrays, np.arange(maps) % CLASSES)


def memory(field: str) -> int:
    """`VmHWM` (the peak) or `VmRSS` of this process, in MB."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) // 1000


class Tuning:
    """SAFE on the bank's rows, `steps` at a time."""

    def __init__(self, bank, clip_config, steps, batch=64, epochs=1):
        h, _, c = clip_config.dense_shape
        recipe = knobs.read(default.get_config())
        recipe = recipe.model_copy(update={"batch_size": batch, "epochs": epochs})
        self.bank, self.mesh = bank, devices.make_mesh()
        rng = np.random.default_rng(1)
        graphdef, params = nnx.split(AttentionPool(h, c, clip_config.embed_dim, rngs=nnx.Rngs(0)))
        text_kd = unit(rng.normal(size=(CLASSES, clip_config.embed_dim)).astype(np.float32))
        start = Start(
            Safe(graphdef, "feature", 1.0),
            {"attnpool": nnx.to_pure_dict(params)},
            TextHead(text_kd, jnp.float32(100)),
        )
        self.plan = Job(start, bank, seed=0).plan(recipe, self.mesh)
        self.steps = min(steps, self.plan.steps)
        self.state, self.stepper = fit.start_steps(start, recipe, self.plan, self.mesh)

    def batches(self, first_step: int):
        return self.bank.batches(self.plan, self.mesh, first_step)

    def whole(self, folder) -> float:
        """How long all steps take, without checkpoints."""
        state = jax.tree.map(jnp.copy, self.state)
        jax.block_until_ready(self.stepper.step(state, next(self.batches(0))))  # compiles
        began = time.perf_counter()
        loop.run_steps(self.state, self.stepper, self.plan.steps, self.batches, folder, 10**9)
        return time.perf_counter() - began

    def seconds(self, first_step: int, pause: float | None) -> float:
        """How long a step, or a pause in its place, takes with its batch; the mean over `steps`."""
        made = self.batches(first_step)
        began = time.perf_counter()
        for _ in range(self.steps):
            batch = next(made)
            if pause:
                time.sleep(pause)
                continue
            self.state, loss = self.stepper.step(self.state, batch)
            loss.block_until_ready()
        taken = (time.perf_counter() - began) / self.steps
        made.close()
        return taken


def read(file: pathlib.Path, mapped: bool, batch: int):
    """Reads batches of random rows; the time of one, and the memory that the process has held."""
    rows = np.load(file, mmap_mode="r") if mapped else RowFile(file)
    steps = len(rows) // batch
    order = np.random.default_rng(2).permutation(len(rows))[: steps * batch].reshape(steps, -1)
    began = time.perf_counter()
    for row_b in order:
        rows[row_b]
    return (time.perf_counter() - began) / steps, memory("VmHWM")


def measure_whole(folder: pathlib.Path, bank, clip_config, batch: int, epochs: int) -> dict:
    """The row of a whole tuning."""
    tuning = Tuning(bank, clip_config, 0, batch, epochs)
    before, seconds = memory("VmRSS"), tuning.whole(folder / "steps")
    return {
        "what": f"{epochs} epochs of {len(bank):,} maps, batch {batch}",
        "device": jax.devices()[0].device_kind,
        "seconds": round(seconds, 1),
        "before_mb": before,
        "peak_mb": memory("VmHWM"),
    }


def measure(folder: pathlib.Path, bank, clip_config, batch: int, steps: int, rounds: int):
    """Rows of what is measured of the way from the disk to the step."""
    with mock.patch.object(batches, "device_budget", return_value=0):  # nothing lies on the device
        yield from _measure(folder, bank, clip_config, batch, steps, rounds)


def _measure(folder, bank, clip_config, batch, steps, rounds):
    tuning = Tuning(bank, clip_config, steps, batch)
    tuning.seconds(0, None)  # compiles
    before = memory("VmRSS")
    for what, pause in (("tuning", None), ("a pause of 5 ms for a step", 5e-3)):
        between, ahead = taking_turns(tuning, rounds, pause)
        yield {
            "what": what,
            "ms_a_step_read_between": round(1e3 * between, 1),
            "ms_a_step_read_ahead": round(1e3 * ahead, 1),
            "ratio": round(between / ahead, 2),
        }
    bank_mb = bank.arrays["dense_bhwc"].nbytes // 10**6
    yield {"what": "memory", "bank_mb": bank_mb, "before_mb": before, "peak_mb": memory("VmHWM")}
    context = multiprocessing.get_context("spawn")
    for name, mapped in (("positional reads", False), ("memory map", True)) * 2:
        with context.Pool(1) as pool:  # each starts with no memory but its own
            seconds, peak = pool.apply(read, (folder / "dense.npy", mapped, batch))
        yield {"what": name, "ms_a_batch": round(1e3 * seconds, 2), "peak_mb": peak}


def taking_turns(tuning, rounds, pause):
    """Seconds of a step without and with `devices.prefetch`, medians over rounds on new rows."""
    ahead, taken = devices.prefetch, {False: [], True: []}
    for number in range(2 * rounds):
        prefetch = bool(number % 2)
        first = (number + 1) * tuning.steps % (tuning.plan.steps - tuning.steps + 1)
        with mock.patch.object(devices, "prefetch", ahead if prefetch else iter):
            taken[prefetch].append(tuning.seconds(first, pause))
    return [statistics.median(taken[prefetch]) for prefetch in (False, True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=int, default=16_000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, help="time a whole tuning of so many")
    parser.add_argument("--folder", help="where the bank is written; the system's by default")
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")  # as a run has it
    preset = PRESETS["RN50"]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        folder = pathlib.Path(folder)
        bank = write(folder, args.maps, preset)
        if args.epochs:
            rows = [measure_whole(folder, bank, preset, args.batch, args.epochs)]
        else:
            rows = measure(folder, bank, preset, args.batch, args.steps, args.rounds)
        for row in rows:
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
