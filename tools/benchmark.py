"""Measures us against PyTorch in one run, as ratios: JSON lines, then a table.

    python -m tools.benchmark [--device gpu] [--only trunk pool ...] [--rounds 9]

On a GPU the trunk computes in bfloat16, and its batch is 256.

Sides take turns, so that a drift of the machine hits both; a ratio above 1 says that ours is
faster. Floors and shares are of this machine's own peaks, measured first. What PyTorch does in each
case, and what is counted, is described in tools/benchmarks/.
"""

import argparse
import json
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import torch

from safe_jax.clip.model import PRESETS
from tools.benchmarks import grid, harness, input, pool, predict, trunk, tuning

CASES = ("trunk", "pool", "map_head", "tuning", "cache_grid", "input_pipeline", "predict")


def cases(name: str, args, dtype, device, folder: pathlib.Path) -> list[harness.Case]:
    """The cases of one of `CASES`; what they need is made when it is their turn."""
    preset = PRESETS[args.preset]
    if name == "trunk":
        return trunk.cases(preset, args.trunk_batch, dtype, device)
    if name == "pool":
        return pool.cases(preset, args.batch, device)
    if name == "map_head":
        return pool.map_head_cases(args.batch, device)
    if name == "tuning":
        return tuning.cases(preset, dtype, device)
    if name == "cache_grid":
        return grid.cases(device)
    workers = os.cpu_count() or 1
    if name == "input_pipeline":
        return input.cases(args.images, folder / "input", workers)
    count = 2 * predict.BATCH if device.type == "cpu" else 16 * predict.BATCH
    files = input.copies_or_drawn(args.images, count, folder / "predict")
    return predict.cases(preset, files, dtype, device, workers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--preset", choices=PRESETS, default="RN50")
    parser.add_argument("--batch", type=int, default=64, help="images of a step of tuning")
    parser.add_argument("--trunk-batch", type=int, help="32 by default, on a GPU 256")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--images",
        type=pathlib.Path,
        help="a folder of JPEGs for input_pipeline and predict; drawn ones if not given",
    )
    args = parser.parse_args()
    on_cpu = args.device == "cpu"
    args.trunk_batch = args.trunk_batch or (32 if on_cpu else 256)
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")  # the other half is PyTorch's
    jax.config.update("jax_platforms", "cpu" if on_cpu else "cuda,cpu")
    # As a run has it, and as PyTorch has it by default: float32 is float32 on a GPU too.
    jax.config.update("jax_default_matmul_precision", "highest")
    torch.backends.cudnn.benchmark = True
    dtype = jnp.float32 if on_cpu else jnp.bfloat16
    device = torch.device("cpu" if on_cpu else "cuda")
    peak = harness.measure_peak(jnp.float32)
    trunk_peak = peak if on_cpu else harness.measure_peak(dtype)
    machine = {
        "device": jax.devices()[0].device_kind,
        "dtype": jnp.dtype(dtype).name,
        "threads": torch.get_num_threads(),
        "peak_gflops": round(peak.flops / 1e9, 1),
        "trunk_peak_gflops": round(trunk_peak.flops / 1e9, 1),
        "peak_gb_s": round(peak.bytes / 1e9, 1),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
    }
    print(json.dumps(machine), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            for case in cases(name, args, dtype, device, pathlib.Path(folder)):
                rows.append(harness.run(case, args.rounds, peak, trunk_peak))
                print(json.dumps(rows[-1]), flush=True)
    print(harness.table(rows))


if __name__ == "__main__":
    main()
