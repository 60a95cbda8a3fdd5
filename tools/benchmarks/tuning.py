"""A whole few-shot tuning, from a bank that is ready or from pictures, against the peers' way.

The peers' way runs the trunk in every step and forms every key and value. A few of its steps are
run, each on pictures of its own, and counted as often as there are steps; decoding is left out on
both sides, though the peers decode in every epoch and we once.
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import torch

from configs import default
from safe_jax.bank import batches, extraction
from safe_jax.bank.view import View
from safe_jax.clip.model import CLIPConfig
from safe_jax.data.preprocessing import normalize
from safe_jax.experiment import knobs
from safe_jax.methods.contract import Setting
from safe_jax.methods.safe import Safe
from safe_jax.methods.text_head import TextHead, unit
from safe_jax.runtime import devices
from safe_jax.tuning import fit
from safe_jax.tuning.fit import Checkpoints, Job
from tools import torch_clip
from tools.benchmarks import trunk
from tools.benchmarks.harness import Case, counted_flops

CLASSES, SHOTS, EPOCHS = 37, 16, 20
THEIR_STEPS = 2


class Tuning:
    """One and the same tuning, both ways; `shots` images of each of `classes` in random pixels."""

    def __init__(self, preset: CLIPConfig, classes, shots, epochs, dtype, device):
        given = default.get_config()
        given.epochs = epochs
        self.config = knobs.read(given)
        self.mesh = devices.make_mesh(jax.devices()[:1])
        self.count, self.dtype, self.device = classes * shots, dtype, device
        rng = np.random.default_rng(0)
        self.model, state = trunk.model_and_state(preset, dtype)
        self.state = {name: x.to(device) for name, x in state.items() if name.startswith("visual.")}
        self.pixels = rng.integers(0, 256, (self.count, *[preset.image_size] * 2, 3), np.uint8)
        self.label_n = np.arange(self.count) % classes
        self.text_kd = np.array(
            unit(rng.normal(size=(classes, preset.embed_dim)).astype(np.float32))
        )
        self.plan = batches.plan(self.count, 1, self.config.batch_size, epochs, 0)
        self.view = None
        # Before the clock starts: on the peers' side, too, other cores do this meanwhile.
        first = self.pixels[self.plan.image_sb[:THEIR_STEPS]]
        self.their_images = torch.from_numpy(normalize(first)).permute(0, 1, 4, 2, 3)

    def extract(self):
        """The bank, held in memory: every picture through the trunk once."""
        graphdef, params = extraction.fold(self.model, self.mesh)
        size, parts = self.config.trunk_batch_size, []
        for pixels in np.split(self.pixels, range(size, self.count, size)):
            padded = devices.pad_to(pixels, size)
            made = extraction.extract_step(graphdef, params, padded, jnp.dtype("float16"))
            parts.append([np.asarray(x)[: len(pixels)] for x in made])
        dense, pooled = (np.concatenate(part) for part in zip(*parts, strict=True))
        arrays = {"dense_bhwc": dense, "original_bd": pooled}
        self.view = View.of("random", arrays, self.label_n)

    def tune(self) -> float:
        """The loss of the first step, of a whole tuning."""
        if self.view is None:
            self.extract()
        head = TextHead.of(self.model, jnp.asarray(self.text_kd))
        start = Safe.start(Setting(self.model, head, self.view, 1, seed=0), self.config)
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints.in_folder(pathlib.Path(folder) / "steps", every=10**9)
            tuned = fit.fit(Job(start, self.view, 0), self.config, self.mesh, checkpoints)
        return float(tuned.losses_s[0])

    def extract_and_tune(self) -> float:
        self.extract()
        return self.tune()

    def theirs(self) -> float:
        """The loss of the first of a few steps, as PyTorch takes it."""
        half = torch.bfloat16 if self.dtype == jnp.bfloat16 else torch.float32
        frozen = {name: x.to(half) for name, x in self.state.items() if "attnpool" not in name}
        pool = {
            name: x.clone().requires_grad_() for name, x in self.state.items() if "attnpool" in name
        }
        optimizer = torch.optim.AdamW(pool.values(), lr=self.config.learning_rate)
        text = torch.from_numpy(self.text_kd).to(self.device)
        scale, losses = float(jnp.exp(self.model.logit_scale[...])), []
        for step in range(THEIR_STEPS):
            at_b = self.plan.image_sb[step]
            image = self.their_images[step].to(self.device, half).contiguous()
            with torch.no_grad():
                dense = torch_clip.dense(frozen, image).float()
            feature = torch.nn.functional.normalize(torch_clip.pool(pool, dense), dim=-1)
            label = torch.from_numpy(self.label_n[at_b]).to(self.device)
            loss = torch.nn.functional.cross_entropy(scale * feature @ text.T, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())  # waits for the device
        return losses[0]


def cases(
    preset: CLIPConfig, dtype, device, classes=CLASSES, shots=SHOTS, epochs=EPOCHS
) -> list[Case]:
    """Tuning with the bank ready, and with one view extracted first."""
    tuning = Tuning(preset, classes, shots, epochs, dtype, device)
    batch = tuning.config.batch_size
    maps = jnp.zeros((batch, *preset.dense_shape), jnp.float16)
    pictures = jnp.zeros((1, preset.image_size, preset.image_size, 3))
    pool = counted_flops(lambda pool, x: pool(x), tuning.model.attnpool, maps)
    trunk_flops = counted_flops(lambda model, x: model.dense_features(x), tuning.model, pictures)
    steps = 3 * pool * tuning.plan.steps  # forward and backward
    common = {
        "theirs": tuning.theirs,
        "count": epochs * tuning.count,
        "unit": "images seen in tuning",
        "theirs_times": tuning.plan.steps / THEIR_STEPS,
        "tolerance": 2e-2,  # the maps of a bank are rounded to 16 bits
        "rounds": 1,
        "note": f"{THEIR_STEPS} of PyTorch's {tuning.plan.steps} steps are run",
    }
    return [
        Case("tuning", tuning.tune, **common, flops=steps),
        Case(
            "extraction_and_tuning",
            tuning.extract_and_tune,
            **common,
            flops=steps,
            trunk_flops=trunk_flops * tuning.count,
        ),
    ]
