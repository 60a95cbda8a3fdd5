"""Images: CLIP's pipeline by the bit in every mode, or a refusal by name; crops; batches."""

import io
import queue
import random
import warnings

import numpy as np
import PIL.Image
import pytest

from safe_jax import clip
from safe_jax.data import images, readable
from safe_jax.data.openable import InMemory
from safe_jax.data.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing, normalize
from safe_jax.runtime.errors import InputError
from tests.data.image_files import FILES, REFUSED, palette, picture, png, wide_picture


def reference(image, side):
    """torchvision's Resize, CenterCrop and convert("RGB"), as CLIP strings them together."""
    w, h = image.size
    new_w, new_h = (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
    image = image.resize((new_w, new_h), PIL.Image.Resampling.BICUBIC)
    top, left = round((new_h - side) / 2.0), round((new_w - side) / 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transparency that is dropped
        return np.array(image.crop((left, top, left + side, top + side)).convert("RGB"))


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_is_as_in_clips_pipeline(name, tmp_path):
    make, mode, distance = FILES[name]
    file = tmp_path / name
    file.write_bytes(make())
    assert images.why_unreadable(file) is None
    with PIL.Image.open(file) as image:
        assert image.mode == mode
    for side in (32, 40, 75):  # made smaller, only cropped, made larger
        with PIL.Image.open(file) as image:
            wanted = reference(image, side)
        found = images.load(images.Crop(file), Preprocessing(size=side), None)
        np.testing.assert_array_equal(found, wanted, strict=True)
        if distance:
            looks = reference(wide_picture(), side).astype(int)
            assert np.abs(found - looks).max() <= distance
    crop = images.load(images.Crop(file, "seed"), Preprocessing(size=32), (0.5, 1))
    assert crop.shape == (32, 32, 3)
    assert crop.std() > 10


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (3, 1), (1, 100), (100, 1), (2, 200), (700, 7), (640, 427), (97, 61)]
)
def test_every_shape_is_as_in_clips_pipeline(size):
    image = picture(*size)
    np.testing.assert_array_equal(images.center_crop(image, 32), reference(image, 32))
    crop = images.random_crop(image, Preprocessing(size=32), random.Random(0), (0.5, 1))
    assert crop.shape == (32, 32, 3)


def test_what_transparency_hides():
    """Alpha is dropped; bicubic resizing has made black what was wholly transparent."""
    image = PIL.Image.new("RGBA", (64, 64), (200, 100, 50, 128))
    np.testing.assert_allclose(images.center_crop(image, 32)[9, 9], (200, 100, 50), atol=1)
    image.putalpha(0)
    assert not images.center_crop(image, 32).any()
    np.testing.assert_array_equal(images.center_crop(image, 64)[9, 9], (200, 100, 50))
    np.testing.assert_array_equal(
        images.center_crop(image.convert("RGB"), 32)[9, 9], (200, 100, 50)
    )


# What is refused, before a run and within it.


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_file(name, tmp_path):
    make, said = REFUSED[name]
    file = tmp_path / name
    file.write_bytes(make())
    for crop in (images.Crop(file), images.Crop(file, "seed")):
        with pytest.raises(InputError, match=rf"{name}: .*{said}"):
            images.load(crop, Preprocessing(size=32), (0.5, 1))
    with pytest.raises(InputError, match=rf"1 of 1 images .*\n.*{name}: .*{said}"):
        readable.check([file], workers=1)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("limit", [4000, 1000])  # Pillow warns above the limit, raises above twice
def test_what_may_be_a_bomb_is_refused(limit, strict, tmp_path, monkeypatch):
    file = tmp_path / "bomb.jpg"
    picture(100, 50).save(file)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", limit)
    said = f"an image of more than {limit} px, .*: scale it down"
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        assert said.split(",")[0] in images.why_unreadable(file)
        with pytest.raises(InputError, match=rf"bomb\.jpg: {said}"):
            images.load(images.Crop(file), Preprocessing(size=32), None)
    for free in (5000, None):
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", free)
        assert images.why_unreadable(file) is None
        assert images.load(images.Crop(file), Preprocessing(size=32), None).shape == (32, 32, 3)


def test_refusals_cost_no_decoding(tmp_path):
    """The header tells: of the pixels nothing is there."""
    file = tmp_path / "headless.png"
    file.write_bytes(png(5, 900, 8, 2, b""))
    assert "5 x 900 px" in images.why_unreadable(file)


# One image, as it is called in Python.


def test_preprocess_leaves_the_image_as_it_was():
    image = PIL.Image.open(io.BytesIO(palette(bytes(range(64)))))
    image.load()
    before = image.tobytes(), dict(image.info), image.size
    clip.preprocess(image, 40)
    assert (image.tobytes(), image.info, image.size) == before


def test_preprocess_takes_any_whole_number_and_refuses_deep_modes():
    image = picture(61, 40)
    wanted = clip.preprocess(image, 32)
    scaled = reference(image, 32).astype(np.float32) / 255
    np.testing.assert_array_equal(
        wanted, (scaled - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD), strict=True
    )
    for size in (np.int64(32), np.uint8(32), 32.0):
        np.testing.assert_array_equal(clip.preprocess(image, size), wanted, strict=True)
    for mode in ("I", "F", "I;16"):
        with pytest.raises(InputError, match=f"an image of mode {mode}, which"):
            clip.preprocess(image.convert("L").convert("I").convert(mode), 32)
    with pytest.raises(InputError, match="an image of mode La, which"):
        clip.preprocess(image.convert("LA").convert("La"), 32)
    for other in ("cat.jpg", np.zeros((40, 61, 3), np.uint8), None):
        with pytest.raises(TypeError, match=r"a PIL\.Image\.Image is expected, not "):
            clip.preprocess(other, 32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_normalize_takes_pixels_of_any_type(dtype):
    pixels = np.asarray(picture(6, 5))
    found = normalize(pixels.astype(dtype))
    np.testing.assert_array_equal(found, normalize(pixels), strict=True)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("size", "box"),
    # The long side is int(64 * long / short); the crop starts at round(half of what is over),
    # where Python rounds half to even: 64 * 95 / 70 = 86.9 -> 86, 11; 91 -> 13.5 -> 14.
    [((95, 70), (86, 64, 11, 0)), ((70, 95), (64, 86, 0, 11)), ((91, 64), (91, 64, 14, 0)),
     ((64, 69), (64, 69, 0, 2)), ((64, 64), (64, 64, 0, 0)), ((30, 20), (96, 64, 16, 0))],
)  # fmt: skip
def test_center_crop_is_by_the_pixel(size, box):
    width, height, left, top = box
    resized = picture(*size).resize((width, height), PIL.Image.Resampling.BICUBIC)
    wanted = np.asarray(resized)[top : top + 64, left : left + 64]
    np.testing.assert_array_equal(images.center_crop(picture(*size), 64), wanted)


def test_boxes_follow_the_centre_crop():
    """200 x 100 to 50: scaled to 100 x 50, the crop starts at 25."""
    box = images.box_in_view([50, 0, 100, 50], (200, 100), Preprocessing(size=50))
    np.testing.assert_allclose(box, [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(
        images.box_in_view([0, 0, 200, 100], (200, 100), Preprocessing(size=50)), [0, 0, 1, 1]
    )


def test_preprocess_normalises_with_clips_mean_and_deviation():
    grey = PIL.Image.new("RGB", (64, 64), (128, 0, 255))
    pixel = clip.preprocess(grey, 32)[5, 5]
    wanted = [(128 / 255 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258,
              (1 - 0.40821073) / 0.27577711]  # fmt: skip
    np.testing.assert_allclose(pixel, wanted, rtol=1e-6)
    assert clip.preprocess(grey, 32).dtype == np.float32


def test_random_crops_depend_on_their_seed_alone():
    image = picture(90, 70)
    one, same, other = (
        images.random_crop(image, Preprocessing(size=32), random.Random(seed), (0.5, 1))
        for seed in ("a", "a", "b")
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert one.shape == (32, 32, 3)


def test_random_crops_keep_to_their_scale():
    """A picture whose pixels tell where they are: the area of the crop can be read off."""
    columns, rows = np.meshgrid(np.arange(200), np.arange(200))
    image = PIL.Image.fromarray(np.stack([columns, rows, rows], -1).astype(np.uint8))
    flipped = 0
    for seed in range(40):
        crop = images.random_crop(
            image, Preprocessing(size=100), random.Random(seed), (0.5, 0.6)
        ).astype(float)
        width = abs(crop[50, 99, 0] - crop[50, 0, 0]) * 100 / 99
        height = (crop[99, 50, 1] - crop[0, 50, 1]) * 100 / 99
        assert 0.47 < width * height / 200**2 < 0.63
        assert 0.72 < width / height < 1.38
        flipped += crop[50, 99, 0] < crop[50, 0, 0]
    assert 10 < flipped < 30


def test_random_crop_of_a_strip_falls_back_to_its_middle():
    crop = images.random_crop(picture(400, 20), Preprocessing(size=32), random.Random(0), (0.8, 1))
    assert crop.shape == (32, 32, 3)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{n}.jpg" for n in range(10)]
    for n, path in enumerate(paths):
        picture(70 + 3 * n, 90 - 2 * n, seed=n).save(path)
    return paths


def test_batches_come_in_order_whatever_the_threads(files):
    crops = [images.Crop(file, None if i % 2 else "seed") for i, file in enumerate(files)]
    parts = [crops[:4], crops[4:5], crops[5:]]
    one, many = (
        list(images.load_batches(parts, Preprocessing(size=64), (0.5, 1), n)) for n in (1, 5)
    )
    assert [len(batch) for batch in one] == [4, 1, 5]
    np.testing.assert_array_equal(np.concatenate(one), np.concatenate(many))
    for crop, pixels in zip(crops, np.concatenate(one), strict=True):
        np.testing.assert_array_equal(images.load(crop, Preprocessing(size=64), (0.5, 1)), pixels)


def test_batches_are_decoded_ahead_and_no_further(files, monkeypatch):
    """While one batch is used the next three are made; a damaged file stops it all."""
    decoded = queue.Queue()
    load = images.load

    def counted(crop, *rest):
        pixels = load(crop, *rest)
        decoded.put(crop)
        return pixels

    monkeypatch.setattr(images, "load", counted)
    files[9].write_bytes(b"")
    crops = [[images.Crop(file)] for file in files for _ in range(2)]
    batches = images.load_batches(crops, Preprocessing(size=32), (0.5, 1), workers=3)
    next(batches)
    for _ in range(4):
        decoded.get(timeout=30)
    with pytest.raises(queue.Empty):
        decoded.get(timeout=0.2)
    for _ in range(17):
        next(batches)
    with pytest.raises(InputError, match=r"9\.jpg: cannot be decoded"):
        next(batches)
    assert decoded.qsize() == 14
    assert list(images.load_batches([], Preprocessing(size=32), (0.5, 1), workers=3)) == []


def test_a_damaged_image_is_named(tmp_path):
    picture(90, 90).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut\.jpg: cannot be decoded: .*truncated"):
        images.load(images.Crop(tmp_path / "cut.jpg"), Preprocessing(size=32), (0.5, 1))
    (tmp_path / "text.png").write_text("no image")
    paths = [tmp_path / name for name in ("whole.jpg", "cut.jpg", "text.png", "absent.jpg")]
    with pytest.raises(InputError) as caught:
        readable.check(paths, workers=2)
    said = str(caught.value)
    assert said.startswith("3 of 4 images cannot be used")
    assert "whole.jpg" not in said
    assert f"{tmp_path}/cut.jpg: cannot be decoded" in said
    assert f"{tmp_path}/text.png: cannot be decoded" in said
    assert f"{tmp_path}/absent.jpg: missing" in said


def test_readable_images_go_on_where_others_have_reasons(files):
    """In batches that differ in size, in their order, whatever the threads."""
    files[2].write_bytes(files[2].read_bytes()[:900])
    files[5].write_text("no image")
    files[9].unlink()
    crops = [images.Crop(file) for file in files]
    parts = [crops[:4], crops[4:5], crops[5:]]
    for workers in (1, 5):
        found = list(images.load_readable(parts, Preprocessing(size=64), workers))
        assert [pixels.shape for pixels, _ in found] == [(n, 64, 64, 3) for n in (4, 1, 5)]
        reasons = [reason for _, of_batch in found for reason in of_batch]
        pixels_nhwc = np.concatenate([pixels for pixels, _ in found])
        for number, (crop, reason) in enumerate(zip(crops, reasons, strict=True)):
            if number in (2, 5, 9):
                assert not pixels_nhwc[number].any()
            else:
                assert reason is None
                wanted = images.load(crop, Preprocessing(size=64), (1, 1))
                np.testing.assert_array_equal(pixels_nhwc[number], wanted)
        # The name of the file is the caller's to say.
        assert "truncated" in reasons[2]
        assert reasons[5].startswith("cannot be decoded: no format")
        assert reasons[9] == "missing"


def test_what_is_no_fault_of_an_image_is_raised(files, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(images, "center_crop", broken)
    monkeypatch.setattr(images, "opened", lambda path: path.open("rb"))
    with pytest.raises(RuntimeError, match="a bug"):
        list(images.load_readable([[images.Crop(files[0])]], Preprocessing(size=64), workers=1))


@pytest.mark.parametrize("name", FILES)
def test_an_image_in_memory_has_the_pixels_of_its_file(name, tmp_path):
    """Also when the file is opened alone and nothing of it was read yet."""
    file = tmp_path / name
    file.write_bytes(FILES[name][0]())
    with PIL.Image.open(file) as image:
        held = InMemory(image, "memory/1")
        assert images.why_unreadable(held) is None
        for seed in (None, "seed", None):  # reading leaves it as it was
            np.testing.assert_array_equal(
                images.load(images.Crop(held, seed), Preprocessing(size=40), (0.5, 1)),
                images.load(images.Crop(file, seed), Preprocessing(size=40), (0.5, 1)),
            )


def test_an_image_in_memory_is_in_no_file():
    held = InMemory(picture(900, 2), "memory/1")
    assert images.why_unreadable(held).startswith("an image of 900 x 2 px")
    with pytest.raises(InputError, match="memory/1: an image of 900 x 2 px"):
        images.load(images.Crop(held), Preprocessing(size=32), (1, 1))
    for read in (held.open, held.stat):
        with pytest.raises(OSError, match="memory/1 is in no file"):
            read()
