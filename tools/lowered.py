"""Compiles the programs of a run for an H200, with no GPU at hand, and counts what they would do.

    pip install --no-deps jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2 nvidia-cuda-nvcc-cu12
    python -m tools.lowered [--only trunk alphas ...] [--triton] [--kernels 20]

The plugin is to be of JAX's version. XLA is told what an H200 is, in place of asking one, so that
it chooses layouts and fuses as it does there; what it settles by timing, it cannot: products are
cuBLAS's, or with `--triton` those that XLA compiles itself.

For each program: kernels; the gigabytes that they read and write, each array counted once a kernel
(of what it picks rows from only those rows); of both, those that compute nothing, but transpose,
cast, pad or copy; and the gigabytes of intermediate arrays. Bodies of loops count as often as they
run.
"""

import argparse
import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from safe_jax.bank import extraction
from safe_jax.checkpoints import trees
from safe_jax.classifier import evaluate
from safe_jax.classifier.evaluate import POINTS_AT_ONCE, Axes
from safe_jax.clip.config import PRESETS, CLIPConfig
from safe_jax.clip.model import CLIP
from safe_jax.methods.cache import CacheHead
from safe_jax.methods.safe import Safe
from safe_jax.methods.text_head import TextHead
from safe_jax.methods.tip_adapter import TipAdapter
from safe_jax.siglip.config import SigLIPConfig
from safe_jax.siglip.model import SigLIP
from safe_jax.tuning import population, train

H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 device_memory_size: 151397597184
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H200"
"""
BATCH, CLASSES, SHOTS, MEMBERS = 256, 1000, 16, 12
SIGLIP = SigLIPConfig(
    image_size=224, patch_size=16, vision_width=768, vision_mlp_width=3072, vision_layers=12,
    vision_heads=12, text_width=768, text_mlp_width=3072, text_layers=12, text_heads=12,
    vocab_size=32_000, canonical="lower", pad_token=1, tokenizer_bytes=1,
)  # fmt: skip


def described() -> NamedSharding:
    """An H200 that is only described. Exits where JAX has no plugin for CUDA."""
    jax.config.update("jax_platforms", "cpu")
    jax.devices()  # plugins are found
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", topology="1x1x1", target_config=H200
        )
    except Exception as error:
        raise SystemExit(f"JAX has no CUDA plugin here ({error}): see --help") from None
    return NamedSharding(Mesh(topology.devices[:1], ("data",)), PartitionSpec())


class Shapes:
    """The arguments of each program, as shapes on a device."""

    def __init__(self, sharding: NamedSharding, config: CLIPConfig = PRESETS["RN50"]):
        self._sharding, self.config = sharding, config
        graphdef, self._pool = nnx.split(self.clip().attnpool)
        self.safe = Safe(graphdef, "feature", 1.0)
        self.optimizer = train.make_optimizer("attnpool/.*", 0.9, 0.999, 1e-8)

    def clip(self, dtype: DTypeLike = jnp.float32) -> Any:
        return trees.abstract_model(self.config, dtype, kind=CLIP).image_tower()

    def array(self, *shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._sharding)

    def of(self, tree: Any, *leading: int) -> Any:
        return jax.tree.map(lambda x: self.array(*leading, *x.shape, dtype=x.dtype), tree)

    def trunk(self, model: Any) -> Any:
        graphdef, params = nnx.split(nnx.eval_shape(lambda model: model.folded(), model))
        size = model.config.image_size
        pixels = self.array(BATCH, size, size, 3, dtype=jnp.uint8)
        return extraction.extract_step.lower(graphdef, self.of(params), pixels, np.dtype("float16"))

    def params(self) -> Any:
        return {"attnpool": self.of(nnx.to_pure_dict(self._pool))}

    def head(self) -> TextHead:
        return TextHead(self.array(CLASSES, self.config.embed_dim), self.array())

    def state(self) -> train.TrainState:
        moments = self.of(jax.eval_shape(self.optimizer.init, self.params()))
        return train.TrainState(self.array(dtype=jnp.int32), self.params(), moments)

    def frozen(self) -> train.Frozen:
        masked = train.split_params(self.params(), train.label_params(self.params(), ".*"))[1]
        return train.Frozen(masked, self.head())

    def schedule(self) -> train.Schedule:
        return train.Schedule(self.array(1260), self.array())

    def table(self, rows: int) -> dict[str, Any]:
        return {
            "dense_bhwc": self.array(rows, *self.config.dense_shape, dtype=jnp.float16),
            "original_bd": self.array(rows, self.config.embed_dim),
        }

    def labels(self, *leading: int) -> dict[str, Any]:
        label = self.array(*leading, BATCH, dtype=jnp.int32)
        return {"label_b": label, "mask_b": self.array(*leading, BATCH)}


def _pool(shapes: Shapes) -> Any:
    def step(state, frozen, schedule, batch):
        return train.train_step(
            state, frozen, schedule, batch, method=shapes.safe, optimizer=shapes.optimizer
        )

    batch = shapes.table(BATCH) | shapes.labels()
    args = shapes.state(), shapes.frozen(), shapes.schedule(), batch
    return jax.jit(step, donate_argnums=0).lower(*args)


def _gradients(shapes: Shapes) -> Any:
    function = jax.jit(train.loss_and_grads, static_argnames="method")
    batch = shapes.table(BATCH) | shapes.labels()
    return function.lower(shapes.params(), shapes.frozen(), batch, method=shapes.safe)


def _optimizer(shapes: Shapes) -> Any:
    function = jax.jit(train.apply_grads, static_argnames="optimizer", donate_argnums=0)
    args = shapes.state(), shapes.params(), shapes.schedule()
    return function.lower(*args, optimizer=shapes.optimizer)


def _population(shapes: Shapes) -> Any:
    frozen, schedule = (shapes.of(x, MEMBERS) for x in (shapes.frozen(), shapes.schedule()))
    rows = {"row_b": shapes.array(MEMBERS, BATCH, dtype=jnp.int32)} | shapes.labels(MEMBERS)
    return population.population_step.lower(
        shapes.of(shapes.state(), MEMBERS), (frozen, schedule, shapes.table(SHOTS * CLASSES)), rows,
        method=shapes.safe, optimizer=shapes.optimizer,
    )  # fmt: skip


def _alphas(shapes: Shapes) -> Any:
    batch = shapes.table(BATCH) | shapes.labels()
    axes = Axes([shapes.array(21)], POINTS_AT_ONCE)
    args = shapes.params(), shapes.head(), batch, axes, None
    return evaluate.eval_step.lower(*args, method=shapes.safe)


def _cache(shapes: Shapes) -> Any:
    batch = {"original_bd": shapes.table(BATCH)["original_bd"]} | shapes.labels()
    keys = {"keys": shapes.array(CLASSES, SHOTS, shapes.config.embed_dim)}
    context = CacheHead(shapes.head(), shapes.array(CLASSES, SHOTS))
    axes = Axes([shapes.array(200), shapes.array(20)], POINTS_AT_ONCE)
    return evaluate.eval_step.lower(keys, context, batch, axes, None, method=TipAdapter(1.0, 2.0))


PROGRAMS: dict[str, Callable[[Shapes], Any]] = {
    "trunk": lambda shapes: shapes.trunk(shapes.clip(jnp.bfloat16)),
    "trunk_float32": lambda shapes: shapes.trunk(shapes.clip()),
    "siglip_trunk": lambda shapes: shapes.trunk(
        trees.abstract_model(SIGLIP, jnp.bfloat16, kind=SigLIP).image_tower()
    ),
    "gradients": _gradients,
    "optimizer": _optimizer,
    "step_as_one": _pool,
    "population": _population,
    "alphas": _alphas,
    "cache_grid": _cache,
}

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
ARRAY = re.compile(rf"\b({'|'.join(BYTES)})\[([\d,]*)\]")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\([^=]*?\)|\S+) ([\w\-]+)\((.*?)\)(.*)$")
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all"}
MOVING = FREE | {"transpose", "copy", "convert", "pad", "slice", "reshape", "broadcast"}
PICKING = {"gather", "dynamic-slice", "dynamic-update-slice"}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of a program: what it makes, the operations in it, and the bytes it moves."""

    makes: str
    operations: collections.Counter[str]
    bytes: int

    @property
    def only_moves(self) -> bool:
        return set(self.operations) <= MOVING


def kernels(text: str) -> Iterator[Kernel]:
    """The kernels of a compiled module, those of a loop as often as it runs."""
    return _of(_computations(text), "ENTRY")


def _computations(text):
    found, lines = {}, []
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if begins := re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{", line):
            lines = found.setdefault("ENTRY" if begins[1] else begins[2], [])
        elif instruction := INSTRUCTION.match(line):
            lines.append(instruction.groups())
    return found


def _of(computations, name):
    types = {name: made for name, made, *_ in computations[name]}
    for _, made, operation, arguments, rest in computations[name]:
        if operation in FREE:
            continue
        if operation == "while":
            times = int(re.search(r'known_trip_count":\{"n":"(\d+)"', rest)[1])
            body = list(_of(computations, re.search(r"body=%?([\w.\-]+)", rest)[1]))
            for _ in range(times):
                yield from body
            continue
        called = re.search(r"calls=%?([\w.\-]+)", rest)
        inner = [line[2] for line in computations[called[1]]] if called else [operation]
        target = re.search(r'custom_call_target="([^"]+)"', rest)
        operations = collections.Counter([target[1]] if target else inner)
        read = [_size(types.get(x, "")) for x in re.findall(r"%([\w.\-]+)", arguments)]
        written = _size(re.sub(r", [su]8\[\d+\]", "", made) if target else made)  # no workspace
        if PICKING & set(operations):
            read = [min(size, written) for size in read]
        yield Kernel(made, operations, sum(read) + written)


def _size(made: str) -> int:
    return sum(
        BYTES[kind] * math.prod(int(x) for x in shape.split(",") if x)
        for kind, shape in ARRAY.findall(made)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--triton", action="store_true", help="XLA compiles products itself")
    parser.add_argument("--kernels", type=int, default=0, help="print so many kinds of kernels")
    args = parser.parse_args()
    options = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": args.triton}
    shapes = Shapes(described())
    print(f"{'':15}{'kernels':>9}{'GB':>9}{'moving':>9}{'GB':>9}{'held GB':>9}")
    for name in args.only:
        with jax.default_matmul_precision("highest"):
            compiled = PROGRAMS[name](shapes).compile(compiler_options=options)
        found = list(kernels(compiled.as_text()))
        moving = [kernel for kernel in found if kernel.only_moves]
        moved, all_moved = (sum(k.bytes for k in part) / 1e9 for part in (moving, found))
        held = compiled.memory_analysis().temp_size_in_bytes / 1e9
        print(
            f"{name:15}{len(found):>9,}{all_moved:>9.2f}{len(moving):>9,}{moved:>9.2f}{held:>9.2f}",
            flush=True,
        )
        for line in _largest(found, args.kernels):
            print(line)


def _largest(found, count):
    alike = collections.defaultdict(list)
    for kernel in found:
        alike[kernel.makes, tuple(kernel.operations)].append(kernel.bytes)
    for (makes, operations), moved in sorted(alike.items(), key=lambda x: -sum(x[1]))[:count]:
        inside = " ".join(x for x in operations if x not in FREE)
        yield f"    {len(moved):6,} x {moved[0] / 1e9:6.3f} GB  {makes[:50]:50}  {inside[:100]}"


if __name__ == "__main__":
    main()
