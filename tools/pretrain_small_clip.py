"""Trains the small CLIP that comes with the package, on scenes that it draws itself.

    python -m tools.pretrain_small_clip [--steps N N] [--workdir DIR] [--output FILE]

Contrastive, as CLIP: of the captions of a batch an image is to be most like its own, and the other
way round. The images are scenes of printed digits, letters and shapes; no handwriting is among
them. Killed and started again, it goes on from its last checkpoint; the same command gives the
same weights on the same machine.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import pathlib
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from flax import nnx

from safe_jax import clip
from safe_jax.bank import batches
from safe_jax.checkpoints import files as torch_files
from safe_jax.checkpoints import state_dict, trees
from safe_jax.clip.family import FAMILY
from safe_jax.clip.model import CLIP, CLIPConfig
from safe_jax.data import prompts, scenes
from safe_jax.data.preprocessing import normalize
from safe_jax.methods.contract import Recipe, Start
from safe_jax.methods.text_head import unit
from safe_jax.methods.text_rows import text_rows
from safe_jax.runtime import devices
from safe_jax.tuning import fit, loop
from tools import captions

CONFIG = CLIPConfig(
    embed_dim=128,
    image_size=128,
    vision_layers=(1, 2, 2, 2),
    vision_width=16,
    text_width=64,
    text_layers=2,
)
BATCH_SIZE = 128
TOKENS = 40  # of a caption, at most
MAX_LOGIT_SCALE = np.log(100)  # as CLIP has it
NORM_BATCHES = 64  # that batch norm's statistics are measured on
CHECKPOINT_EVERY = 100  # steps
HELD_OUT = 2**32  # scenes from this number on are never trained on
HELD_OUT_BATCHES = 8
KINDS = {"digit": 0.4, "letter": 0.35, "shape": 0.25}
_BATCH_STAT = re.compile("/bn[0-9]/(mean|var)$|/downsample_bn/(mean|var)$")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the training; the second takes over what the first has learned."""

    name: str
    image_size: int
    steps: int
    learning_rate: float
    counts: dict[int, float]  # how many things a scene has, and how often
    sides: dict[int, tuple[float, float]]  # how large they are then, as parts of the scene


# First names are learned from things alone, in pictures of a quarter of the size: a step costs a
# sixth. Then several things at once, for the pool to tell apart.
STAGES = (
    Stage("alone", 64, 2500, 1e-3, {1: 1}, {1: (0.5, 1.0)}),
    Stage(
        "together", 128, 1500, 5e-4,
        {1: 1, 2: 3, 3: 3, 4: 3},
        {1: (0.26, 0.8), 2: (0.26, 0.55), 3: (0.26, 0.45), 4: (0.26, 0.42)},
    ),
)  # fmt: skip


def scene(stage: Stage, number: int) -> scenes.Scene:
    """The scene of this number."""
    rng = random.Random(f"{stage.name} {number}")
    ground = rng.choice(list(scenes.COLOURS))
    count = rng.choices(list(stage.counts), stage.counts.values())[0]
    kinds = rng.choices(list(KINDS), KINDS.values(), k=count)
    things = [scenes.random_thing(rng, kind, ground) for kind in kinds]
    return scenes.draw(rng, stage.image_size, things, ground, [stage.sides[count]] * count)


def make_batch(stage: Stage, numbers) -> dict:
    """The scenes of these numbers with a caption each."""
    drawn = [scene(stage, n) for n in numbers]
    texts = [
        captions.caption(random.Random(f"caption {stage.name} {n}"), s)
        for n, s in zip(numbers, drawn, strict=True)
    ]
    return {
        "pixels_bhwc": np.stack([s.pixels for s in drawn]),
        "tokens_bt": clip.tokenize(texts, TOKENS),
        "mask_b": np.ones(len(drawn), np.float32),
    }


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """CLIP's objective, as `train` takes a method: every parameter trains."""

    graphdef: nnx.GraphDef

    def loss(self, params, batch_stats, batch):
        """Cross entropy `(b,)` of finding the caption of an image and the image of a caption."""
        leaves = trees.unflatten(params | batch_stats)
        model = nnx.merge(self.graphdef, leaves, copy=True)  # a copy: batch norm writes into it
        image_bd = unit(model.encode_image(normalize(batch["pixels_bhwc"])))
        text_bd = unit(model.encode_text(batch["tokens_bt"]))
        scale = jnp.exp(jnp.minimum(model.logit_scale[...], MAX_LOGIT_SCALE))
        logits_bb = scale * image_bd @ text_bd.T
        own_b = jnp.arange(len(logits_bb))
        loss_fn = optax.softmax_cross_entropy_with_integer_labels
        return (loss_fn(logits_bb, own_b) + loss_fn(logits_bb.T, own_b)) / 2


def new_model(image_size: int) -> CLIP:
    """Random weights; tokens that no caption has get embeddings of zeros, which compress well."""
    model = CLIP(CONFIG.model_copy(update={"image_size": image_size}), rngs=nnx.Rngs(0))
    used = np.unique(clip.tokenize(captions.words()))
    keep = np.zeros((CONFIG.vocab_size, 1), np.float32)
    keep[used] = 1
    model.text.token_embedding.embedding[...] *= keep
    return model


def train_stage(stage: Stage, leaves: dict, workdir: pathlib.Path) -> dict:
    """The leaves by path after this stage, from those before it."""
    recipe = Recipe(trainable=".*", learning_rate=stage.learning_rate, weight_decay=0.05)
    model = trees.abstract_model(
        CONFIG.model_copy(update={"image_size": stage.image_size}), kind=FAMILY.model
    )
    model.train()  # batch norm by the batch at hand
    params, batch_stats = _split_stats(leaves)
    numbers_sb = np.arange(stage.steps * BATCH_SIZE).reshape(stage.steps, BATCH_SIZE)
    plan = batches.Plan(numbers_sb, np.zeros_like(numbers_sb), steps_per_epoch=100)
    mesh = devices.make_mesh()
    start = Start(Contrastive(nnx.graphdef(model)), params, batch_stats)
    state, stepper = fit.start_steps(start, recipe, plan, mesh)
    state, losses = loop.run_steps(
        state,
        stepper,
        stage.steps,
        lambda first: _drawn_ahead(stage, numbers_sb[first:], mesh),
        workdir / stage.name,
        CHECKPOINT_EVERY,
    )
    print(f"{stage.name}: loss {losses[-100:].mean():.3f} over the last 100 steps")
    return state.params | batch_stats


def _split_stats(leaves):
    stats = {path: x for path, x in leaves.items() if _BATCH_STAT.search(path)}
    return {path: x for path, x in leaves.items() if path not in stats}, stats


def pretrain(stages, workdir: pathlib.Path) -> dict:
    """The leaves by path of the trained model, ready for inference."""
    leaves = trees.flatten(new_model(stages[0].image_size))
    for stage in stages:
        leaves = _resize_positions(leaves, stage.image_size // 32)
        leaves = train_stage(stage, leaves, workdir)
    leaves["logit_scale"] = jnp.minimum(leaves["logit_scale"], MAX_LOGIT_SCALE)
    return _measure_stats(stages[-1], leaves)


def _resize_positions(leaves, side):
    """The pool's positional embedding for maps of `side` x `side` cells."""
    path = "attnpool/positional_embedding"
    mean_c, cells_nc = leaves[path][:1], leaves[path][1:]
    before, channels = round(len(cells_nc) ** 0.5), cells_nc.shape[1]
    cells_hwc = jax.image.resize(
        cells_nc.reshape(before, before, channels), (side, side, channels), "bilinear"
    )
    return leaves | {path: jnp.concatenate([mean_c, cells_hwc.reshape(-1, channels)])}


def _measure_stats(stage, leaves):
    """Batch norm's statistics, averaged over batches that the last stage has trained on."""
    model = trees.abstract_model(
        CONFIG.model_copy(update={"image_size": stage.image_size}), kind=FAMILY.model
    )
    model.train()
    model.set_attributes(nnx.BatchNorm, momentum=0.0)  # what is kept is the last batch's
    graphdef = nnx.graphdef(model)

    @jax.jit
    def stats_of(leaves, pixels_bhwc):
        model = nnx.merge(graphdef, trees.unflatten(leaves), copy=True)
        model.dense_features(normalize(pixels_bhwc))
        return _split_stats(trees.flatten(model))[1]

    measured = [
        stats_of(leaves, make_batch(stage, range(n, n + BATCH_SIZE))["pixels_bhwc"])
        for n in range(0, NORM_BATCHES * BATCH_SIZE, BATCH_SIZE)
    ]
    return leaves | jax.tree.map(lambda *xs: sum(xs) / len(xs), *measured)


def _drawn_ahead(stage, numbers_sb, mesh):
    """Batches for the devices; the next is drawn while one is trained on."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = collections.deque()
        for numbers in tqdm.tqdm(numbers_sb, stage.name, unit=" steps"):
            waiting.append(pool.submit(make_batch, stage, numbers.tolist()))
            if len(waiting) > 2:
                yield devices.shard(mesh, waiting.popleft().result())
        while waiting:
            yield devices.shard(mesh, waiting.popleft().result())


def measure(model: CLIP, stage: Stage) -> dict[str, float]:
    """Accuracy in per cent on scenes that were not trained on; chance is in brackets."""
    graphdef, params = nnx.split(model)

    @jax.jit
    def features(params, pixels_bhwc, tokens_bt):
        model = nnx.merge(graphdef, params)
        return (
            unit(model.encode_image(normalize(pixels_bhwc))),
            unit(model.encode_text(tokens_bt)),
        )

    right, digits = [], []
    text_kd = text_rows(model, prompts.fill(("a photo of the digit {}.",), scenes.DIGITS))
    for n in range(HELD_OUT_BATCHES):
        numbers = range(HELD_OUT + n * BATCH_SIZE, HELD_OUT + (n + 1) * BATCH_SIZE)
        batch = make_batch(stage, numbers)
        image_bd, text_bd = features(params, batch["pixels_bhwc"], batch["tokens_bt"])
        right.extend(np.argmax(image_bd @ text_bd.T, -1) == np.arange(BATCH_SIZE))
        answer_b = np.argmax(image_bd @ text_kd.T, -1)
        for number, answer in zip(numbers, answer_b, strict=True):
            shown = {thing.name for thing in scene(stage, number).things if thing.kind == "digit"}
            if len(shown) == 1:
                digits.append(scenes.DIGITS[answer] in shown)
    return {
        f"caption of {BATCH_SIZE} [{100 / BATCH_SIZE:.1f}]": 100 * float(np.mean(right)),
        "printed digit, alone of its kind [10.0]": 100 * float(np.mean(digits)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/small_clip", help="where checkpoints go")
    parser.add_argument("--output", default="runs/small_clip/small.safetensors")
    parser.add_argument(
        "--steps",
        type=int,
        nargs=len(STAGES),
        default=[stage.steps for stage in STAGES],
        help="of the stages; %(default)s by default",
    )
    args = parser.parse_args()
    if pathlib.Path(args.output).exists():
        parser.error(f"{args.output} exists already: move it, or choose another --output")
    stages = [dataclasses.replace(s, steps=n) for s, n in zip(STAGES, args.steps, strict=True)]
    leaves = pretrain(stages, pathlib.Path(args.workdir).resolve())
    half = {name: x.astype(np.float16) for name, x in state_dict.to_torch(FAMILY, leaves).items()}
    rounded = state_dict.from_torch(FAMILY, half).leaves
    model = nnx.merge(
        nnx.graphdef(trees.abstract_model(CONFIG, kind=FAMILY.model)), trees.unflatten(rounded)
    )
    for what, accuracy in measure(model, stages[-1]).items():
        print(f"{what}: {accuracy:.1f}")
    torch_files.write(args.output, half)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
