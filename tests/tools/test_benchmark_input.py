"""The benchmark of the input pipeline feeds both sides the same images."""

import numpy as np
import PIL.Image
import pytest

from safe_jax.data import images
from safe_jax.data.preprocessing import Preprocessing, normalize
from tools.benchmarks import input as benchmark_input


@pytest.fixture
def files(tmp_path):
    (tmp_path / "from").mkdir()
    for n, size in enumerate([(60, 40), (40, 60), (50, 50)]):
        pixels = np.random.default_rng(n).integers(0, 256, (*size, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / "from" / f"{n}.jpg")
    return benchmark_input.copies(tmp_path / "from", 3, tmp_path)


def test_pictures_are_of_the_size_of_imagenets(files):
    sizes = []
    for file in files:
        with PIL.Image.open(file) as image:
            sizes.append(image.size)
    assert sorted(sizes) == [(375, 500), (500, 375), (500, 375)]


def test_torch_makes_the_same_images(files):
    pictures = benchmark_input.Pictures(files, 32)
    for n, file in enumerate(files):
        ours = normalize(images.load(images.Crop(file), Preprocessing(size=32), None))
        theirs = pictures[n].numpy().transpose(1, 2, 0)
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)


def test_both_sides_make_the_same_batches(files):
    pair = benchmark_input.input_pipeline(files, 32, batch=2, workers=1, against="torch")
    seconds = benchmark_input.take_turns([pair], rounds=1)
    assert seconds.shape == (1, 2, 2)
    assert (seconds[..., 0] > 0).all()
    other = (lambda: 1.0), (lambda: 2.0)
    with pytest.raises(AssertionError, match="not the same images"):
        benchmark_input.take_turns([other], rounds=1)
    ms = benchmark_input.parts(files, rounds=1)
    assert list(ms) == ["load_cpu_ms", "pillow_cpu_ms", "tiny_cpu_ms"]
    assert min(ms.values()) > 0
