"""The bank: the same bits however it was made, and never one that is out of date."""

import itertools
import os
import pathlib

import jax
import numpy as np
import PIL.Image
import pytest

from safe_jax import clip
from safe_jax.bank import store
from safe_jax.bank.store import BankSettings
from safe_jax.data import images
from safe_jax.runtime import devices
from safe_jax.runtime.errors import InputError


@pytest.fixture
def settings(tmp_path):
    """Small batches of the trunk, and a cache of the test's."""
    return BankSettings(
        cache_dir=str(tmp_path / "cache"), trunk_batch_size=4, workers=2, dtype="float32"
    )


def changed(settings, **fields):
    return settings.model_copy(update=fields)


@pytest.fixture
def names(tiny_root):
    root = tiny_root / "patches" / "images"
    return sorted(str(file.relative_to(root)) for file in root.rglob("train_*.jpg"))[:21]


def obtain(settings, model, root, names, views=2, device_count=1):
    mesh = devices.make_mesh(jax.devices()[:device_count])
    spec = store.bank_spec(settings, "digest", root / "patches" / "images", names, views)
    return store.load_or_extract(spec, model, mesh, settings)


def same(found, wanted):
    assert found.arrays.keys() == wanted.arrays.keys() == {"dense_bhwc", "original_bd"}
    for name, x in wanted.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], x)


def test_holds_what_the_model_computes(settings, model, tiny_root, names):
    bank = obtain(settings, model, tiny_root, names)
    root = tiny_root / "patches" / "images"
    with PIL.Image.open(root / names[5]) as image:
        pixels = clip.preprocess(image, 64)[None]
    dense_bhwc = np.asarray(jax.jit(lambda m, x: m.dense_features(x))(model, pixels))
    assert bank.arrays["dense_bhwc"].dtype == np.float16
    stored, pooled = bank.arrays["dense_bhwc"], bank.arrays["original_bd"]
    np.testing.assert_allclose(stored[5 * 2], dense_bhwc[0], rtol=2e-3, atol=1e-3)
    pooled_bd = model.attnpool(stored[10:12])  # of the maps as stored
    np.testing.assert_allclose(pooled[10:12], pooled_bd, rtol=1e-4, atol=1e-5)


def test_same_bits_on_any_number_of_devices_and_workers(
    settings, model, tiny_root, names, tmp_path
):
    one, eight = (
        obtain(
            changed(settings, workers=n, cache_dir=str(tmp_path / str(n))),
            model, tiny_root, names, device_count=n,
        )
        for n in (1, 8)
    )  # fmt: skip
    same(eight, one)


def test_views_depend_on_the_image_alone(settings, model, tiny_root, names):
    many = obtain(settings, model, tiny_root, names, views=3)
    few = obtain(settings, model, tiny_root, names[7:11], views=2)
    for image in range(4):
        for view in range(2):
            np.testing.assert_allclose(
                few.arrays["dense_bhwc"][image * 2 + view],
                many.arrays["dense_bhwc"][(image + 7) * 3 + view],
                rtol=2e-3,
                atol=1e-3,
            )
    assert (many.arrays["dense_bhwc"][0] != many.arrays["dense_bhwc"][1]).any()


def test_goes_on_where_it_was_killed(settings, model, tiny_root, names, tmp_path, monkeypatch):
    undisturbed = obtain(
        changed(settings, cache_dir=str(tmp_path / "undisturbed")), model, tiny_root, names
    )
    decoded = []
    load = images.load

    def dying(crop, *args):
        decoded.append(crop)
        if len(decoded) == 30:
            raise KeyboardInterrupt
        return load(crop, *args)

    monkeypatch.setattr(images, "load", dying)
    with pytest.raises(KeyboardInterrupt):
        obtain(settings, model, tiny_root, names)
    monkeypatch.setattr(images, "load", lambda *args: decoded.append(args[0]) or load(*args))
    decoded.clear()
    same(obtain(settings, model, tiny_root, names), undisturbed)
    assert 0 < len(decoded) < 42
    decoded.clear()
    same(obtain(settings, model, tiny_root, names), undisturbed)
    assert not decoded


def test_what_a_kill_left_of_the_arrays_is_thrown_away(settings, model, tiny_root, names):
    spec = store.bank_spec(settings, "digest", tiny_root / "patches" / "images", names, 2)
    half = spec.folder.with_suffix(".partial")
    half.mkdir(parents=True)
    (half / "dense.npy").write_bytes(b"cut short")
    assert len(obtain(settings, model, tiny_root, names).arrays["dense_bhwc"]) == 42


def test_unfinished_arrays_of_other_contents_are_thrown_away(settings, model, tiny_root, names):
    spec = store.bank_spec(settings, "digest", tiny_root / "patches" / "images", names, 2)
    half = spec.folder.with_suffix(".partial")
    half.mkdir(parents=True)
    other = spec.contents.model_copy(update={"weights": "others"})
    (half / "contents.json").write_text(other.model_dump_json())
    (half / "progress").write_text("42")
    bank = obtain(settings, model, tiny_root, names)
    assert bank.arrays["dense_bhwc"][:].any((1, 2, 3)).all()  # no row was left out


def test_key_covers_all_that_a_bank_depends_on(settings, tiny_root, names, tmp_path):
    root = tmp_path / "images"
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((tiny_root / "patches" / "images" / name).read_bytes())

    def folder(digest="digest", names=names, views=2, **knobs):
        return store.bank_spec(changed(settings, **knobs), digest, root, names, views).folder

    first = folder()
    assert folder() == first
    assert folder(workers=7, trunk_batch_size=8) == first
    others = [
        folder(digest="other"),
        folder(names=names[1:]),
        folder(names=names[::-1]),
        folder(views=3),
        folder(crop_scale=(0.5, 1.0)),
        folder(bank_dtype="float32"),
        folder(dtype="bfloat16"),
    ]
    os.utime(root / names[3], (1, 1))
    others.append(folder())
    root = root.rename(tmp_path / "moved")
    others.append(folder())
    assert len({first, *others}) == 10
    assert folder(views=1) == folder(views=1, crop_scale=(0.5, 1.0))  # of no matter to the centre


def test_dense_maps_too_large_for_16_bits_are_refused(settings, tiny_root, names):
    model = clip.load(tiny_root / "clip_tiny")
    model.visual.layer4[0].bn3.bias[...] += 1e6
    with pytest.raises(InputError, match=r"do not fit float16: set config\.bank_dtype=float32"):
        obtain(settings, model, tiny_root, names)
    bank = obtain(changed(settings, bank_dtype="float32"), model, tiny_root, names)
    assert bank.arrays["dense_bhwc"][:].max() > 1e5


def test_the_cause_of_maps_and_features_that_are_not_finite_is_named(settings):
    fine, nan, huge, zero = np.ones((1, 2)), np.full((1, 2), np.nan), np.full((1, 2), np.inf), 0
    of_float32 = changed(settings, bank_dtype="float32")
    weights = "the weights are damaged"
    for dense, pooled, of, cause in (
        (fine, fine, settings, None),
        (huge, fine, settings, "do not fit float16: set config.bank_dtype=float32"),
        (huge, fine, of_float32, weights),
        (nan, fine, settings, weights),
        (nan, fine, changed(settings, dtype="float16"), "fit float16: set config.dtype=float32"),
        (fine, nan, settings, weights),
        (fine, zero * fine, settings, weights),
    ):
        said = None
        try:
            store._check_finite(dense, pooled, of)
        except InputError as error:
            said = str(error)
        assert said is None if cause is None else cause in said
        assert "bank_dtype" not in (said or "") or cause != weights


def test_a_full_disk_is_told_before_any_work(settings, model, tiny_root, names, monkeypatch):
    spec = store.bank_spec(settings, "digest", tiny_root, names, 2)
    store.check_space([spec, spec], model.config)
    usage = store.shutil.disk_usage(tiny_root)._replace(free=2 * 42 * 2000)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"the banks take 0\.0 GB, .* set config\.cache_dir"):
        store.check_space([spec, spec], model.config)


def flip(file, at, bit=1):
    content = bytearray(file.read_bytes())
    content[at] ^= bit
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


def zero(file):
    array = np.load(file)
    array[3] = 0
    np.save(file, array)


def other_type(file):
    np.save(file, np.load(file).astype(np.float64))


DAMAGE = {
    "a flipped bit of a map": lambda bank: flip(bank / "dense.npy", -7000),
    "a flipped bit of a feature": lambda bank: flip(bank / "pooled.npy", -70),
    "a flipped bit of a checksum": lambda bank: flip(bank / "checksums.npy", -8),
    "zeros": lambda bank: zero(bank / "dense.npy"),
    "another type": lambda bank: other_type(bank / "pooled.npy"),
    "cut short": lambda bank: cut(bank / "dense.npy"),
    "a broken header": lambda bank: flip(bank / "dense.npy", 3),
    "a missing file": lambda bank: (bank / "pooled.npy").unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_bank_is_made_anew(settings, model, tiny_root, names, caplog, kind):
    names = names[:5]
    wanted = {k: x[:] for k, x in obtain(settings, model, tiny_root, names).arrays.items()}
    (folder,) = [
        f for f in (store.paths.cache(settings.cache_dir) / "banks").iterdir() if f.is_dir()
    ]
    DAMAGE[kind](folder)
    again = obtain(settings, model, tiny_root, names)
    for name, x in wanted.items():
        np.testing.assert_array_equal(again.arrays[name][:], x)
    assert "is damaged and made anew" in caplog.text


def test_a_damaged_beginning_of_a_bank_is_thrown_away(
    settings, model, tiny_root, names, monkeypatch
):
    wanted = obtain(changed(settings, cache_dir=settings.cache_dir + "-2"), model, tiny_root, names)
    load, numbers = images.load, itertools.count()

    def dying(crop, *args):
        if next(numbers) == 30:
            raise KeyboardInterrupt
        return load(crop, *args)

    monkeypatch.setattr(images, "load", dying)
    with pytest.raises(KeyboardInterrupt):
        obtain(settings, model, tiny_root, names)
    monkeypatch.setattr(images, "load", load)
    (partial,) = pathlib.Path(settings.cache_dir).rglob("*.partial")
    assert int((partial / "progress").read_text())
    flip(partial / "dense.npy", 200)
    same(obtain(settings, model, tiny_root, names), wanted)
