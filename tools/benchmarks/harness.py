"""Two sides of one piece of work, timed in turns, beside the least that the machine could take.

The floor is the larger of two times: counted floating-point operations at the speed of a large
matrix product, and counted bytes at that of a large array scaled in place, both measured in the
same run. Other work of the cores comes after that on a CPU, and beside it on a GPU.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """Ours and PyTorch's way to do one piece of work.

    Both return a number, or an array of them, that must agree, to show that the work is the same,
    within `tolerance` of the largest. `count` says how many of what (`unit`) a call does. `flops`
    are those in float32, `trunk_flops` those in the type that the trunk computes in; `cpu_seconds`
    is what all cores together need for other work, such as decoding. Where PyTorch's way would take
    too long, a call does a part of the work and `theirs_times` is how often that part stands in the
    whole.
    """

    name: str
    ours: Callable[[], float | np.ndarray]
    theirs: Callable[[], float | np.ndarray] | None
    count: int
    unit: str
    flops: float = 0.0
    trunk_flops: float = 0.0
    bytes: float = 0.0
    cpu_seconds: float = 0.0
    theirs_times: float = 1.0
    tolerance: float = 1e-3
    rounds: int | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Peak:
    """What the device does at its best: operations and bytes in a second."""

    flops: float
    bytes: float


def measure_peak(dtype) -> Peak:
    """Reads off a large matrix product, and a large array scaled in place (read and written)."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    square = jax.random.normal(jax.random.key(0), (size, size), dtype)  # zeros and ones are faster
    product = jax.jit(lambda x: x @ x)
    array = jnp.ones(size * size * 16, jnp.float32)
    scale = jax.jit(lambda x: x * 1.0001, donate_argnums=0)  # in place: fresh pages cost time
    return Peak(
        2 * size**3 / _best(lambda _: product(square), None),
        2 * array.nbytes / _best(scale, array),
    )


def _best(function, x, rounds=9):
    """The shortest time of a call on what the call before returned."""
    x, taken = jax.block_until_ready(function(x)), []
    for _ in range(rounds):
        began = time.perf_counter()
        x = jax.block_until_ready(function(x))
        taken.append(time.perf_counter() - began)
    return min(taken)


def counted_flops(function, *args, **kwargs) -> float:
    """Floating-point operations of a compiled function, as XLA counts them before it optimises.

    Counted for the CPU, wherever the arrays are: other backends do not tell.
    """

    def shape(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype)

    args, kwargs = jax.tree.map(shape, (args, kwargs))
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.jit(function).lower(*args, **kwargs).cost_analysis()["flops"]


def run(case: Case, rounds: int, peak: Peak, trunk_peak: Peak) -> dict:
    """Medians of `rounds` turns, after one that compiles and is not counted.

    The peaks are those of float32 and of the type that the trunk computes in.
    """
    sides = {"ours": case.ours, "theirs": case.theirs}
    sides = {name: function for name, function in sides.items() if function}
    values = {name: np.asarray(function(), float) for name, function in sides.items()}
    if case.theirs:
        one, other = values.values()
        alike = one.shape == other.shape
        if not (alike and abs(one - other).max() <= case.tolerance * abs(other).max()):
            raise AssertionError(f"{case.name} is not the same work: {values}")
    taken = {name: [] for name in sides}
    for _ in range(case.rounds or rounds):
        for name, function in sides.items():
            began = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - began)
    seconds = {name: statistics.median(one) for name, one in taken.items()}
    row = {"what": case.name, "count": case.count, "unit": case.unit, "ours_s": seconds["ours"]}
    if case.theirs:
        row["theirs_s"] = seconds["theirs"] * case.theirs_times
        row["ratio"] = row["theirs_s"] / row["ours_s"]
    computed = case.flops / peak.flops + case.trunk_flops / trunk_peak.flops
    floor = max(computed, case.bytes / peak.bytes)
    on_cpu = jax.default_backend() == "cpu"
    floor = floor + case.cpu_seconds if on_cpu else max(floor, case.cpu_seconds)
    if floor:
        row["floor_s"], row["share"] = floor, floor / row["ours_s"]
    row = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
    return row | ({"note": case.note} if case.note else {})


_WIDTHS = (11, 13, 8, 11, 8)


def table(rows: list[dict]) -> str:
    """The rows side by side."""
    heads = ("ours (s)", "PyTorch (s)", "ratio", "floor (s)", "share")
    cells = (f"{text:>{width}}" for text, width in zip(heads, _WIDTHS, strict=True))
    lines = [f"{'':<24}{''.join(cells)}"]
    for row in rows:
        figures = (
            f"{row[name]:.4g}" if name in row else "-"
            for name in ("ours_s", "theirs_s", "ratio", "floor_s", "share")
        )
        cells = (f"{text:>{width}}" for text, width in zip(figures, _WIDTHS, strict=True))
        lines.append(f"{row['what']:<24}{''.join(cells)}  {row['count']:,} {row['unit']}")
    return "\n".join(lines)
