"""A classifier that `safe-jax fit` made of the tiny data set: a plugin of fixtures."""

import pathlib
import shutil
from typing import NamedTuple

import pytest

from safe_jax.classifier import predict
from tests import in_process
from tests.in_process import Ended

# What an experiment has to be told to tune the same.
TEMPLATE = "a photo of a {} thing."
SHOTS, EPOCHS, RATES = 8, 40, "1e-3,3e-3"


class Fitted(NamedTuple):
    """A classifier's folder, and the command that made it."""

    folder: pathlib.Path
    ended: Ended


class Bench:
    """The tiny data set as a folder of splits, with weights, and a cache for all commands."""

    def __init__(self, tiny_root: pathlib.Path, root: pathlib.Path):
        self.weights = tiny_root / "clip_tiny"
        self.cache = root / "cache"
        self.photos = root / "photos"
        for file in sorted((tiny_root / "patches" / "images").rglob("*.jpg")):
            folder = self.photos / file.name.split("_")[0] / file.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder)

    def images(self, part: str, name: str) -> list[pathlib.Path]:
        """The files of a class in a split."""
        return sorted((self.photos / part / name).iterdir())

    def safe_jax(self, command: str, *arguments: object) -> Ended:
        """The command, with this cache unless it is told of another."""
        first = "--cache-dir", self.cache, "--workers", 2
        with pytest.MonkeyPatch.context() as patch:
            # One program for any number of images; `classifier/test_predict.py` has the others.
            patch.setattr(predict, "WIDTHS", predict.WIDTHS[-1:])
            return in_process.safe_jax(command, *first, *arguments)

    def fit(self, photos: pathlib.Path, output: pathlib.Path, *arguments: object) -> Ended:
        """`safe-jax fit` with the tiny weights, one epoch and one rate unless it is told more."""
        given = photos, "--output", output, "--weights", self.weights
        return self.safe_jax("fit", *given, "--epochs", 1, "--learning-rates", "1e-3", *arguments)


@pytest.fixture(scope="session")
def bench(tiny_root, tmp_path_factory):
    """Add to its folders nothing but what has a name of its own."""
    return Bench(tiny_root, tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="session")
def fitted(bench, tmp_path_factory):
    """SAFE, tuned on a few images of each class: read it only."""
    folder = tmp_path_factory.mktemp("fitted") / "patches-8"
    ended = bench.fit(
        bench.photos, folder, "--template", TEMPLATE, "--shots", SHOTS, "--epochs", EPOCHS,
        "--learning-rates", RATES,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return Fitted(folder, ended)
