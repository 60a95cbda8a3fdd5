"""The bank: the same bits however it was made, and never one that is out of date."""

import os
import types

import jax
import numpy as np
import PIL.Image
import pytest

from safe_jax import clip
from safe_jax.bank import batches, row_file, store
from safe_jax.data import images
from safe_jax.data.records import Record
from safe_jax.runtime import devices
from safe_jax.runtime.errors import InputError
from tests import tiny


@pytest.fixture
def names(tiny_root):
    root = tiny_root / "patches" / "images"
    return sorted(str(file.relative_to(root)) for file in root.rglob("train_*.jpg"))[:21]


def obtain(config, model, root, names, views=2, devices=1):
    mesh = devices.make_mesh(jax.devices()[:devices])
    spec = store.bank_spec(config, "digest", root / "patches" / "images", names, views)
    return store.load_or_extract(spec, model, mesh, config)


def same(found, wanted):
    np.testing.assert_array_equal(found.dense, wanted.dense)
    np.testing.assert_array_equal(found.pooled, wanted.pooled)


def test_holds_what_the_model_computes(tiny_config, model, tiny_root, names):
    bank = obtain(tiny.freeze(tiny_config), model, tiny_root, names)
    root = tiny_root / "patches" / "images"
    with PIL.Image.open(root / names[5]) as image:
        pixels = clip.preprocess(image, 64)[None]
    dense_bhwc = np.asarray(jax.jit(lambda m, x: m.dense_features(x))(model, pixels))
    assert bank.dense.dtype == np.float16
    np.testing.assert_allclose(bank.dense[5 * 2], dense_bhwc[0], rtol=2e-3, atol=1e-3)
    pooled_bd = model.attnpool(bank.dense[10:12])  # of the maps as stored
    np.testing.assert_allclose(bank.pooled[10:12], pooled_bd, rtol=1e-4, atol=1e-5)


def test_same_bits_on_any_number_of_devices_and_workers(
    tiny_config, model, tiny_root, names, tmp_path
):
    one, eight = (
        obtain(
            tiny.freeze(tiny_config, workers=n, cache_dir=str(tmp_path / str(n))),
            model, tiny_root, names, devices=n,
        )
        for n in (1, 8)
    )  # fmt: skip
    same(eight, one)


def test_views_depend_on_the_image_alone(tiny_config, model, tiny_root, names):
    config = tiny.freeze(tiny_config)
    many = obtain(config, model, tiny_root, names, views=3)
    few = obtain(config, model, tiny_root, names[7:11], views=2)
    for image in range(4):
        for view in range(2):
            np.testing.assert_allclose(
                few.dense[image * 2 + view],
                many.dense[(image + 7) * 3 + view],
                rtol=2e-3,
                atol=1e-3,
            )
    assert (many.dense[0] != many.dense[1]).any()


def test_goes_on_where_it_was_killed(tiny_config, model, tiny_root, names, tmp_path, monkeypatch):
    undisturbed = obtain(
        tiny.freeze(tiny_config, cache_dir=str(tmp_path / "undisturbed")), model, tiny_root, names
    )
    config = tiny.freeze(tiny_config)
    decoded = []
    load = images.load

    def dying(crop, *args):
        decoded.append(crop)
        if len(decoded) == 30:
            raise KeyboardInterrupt
        return load(crop, *args)

    monkeypatch.setattr(images, "load", dying)
    with pytest.raises(KeyboardInterrupt):
        obtain(config, model, tiny_root, names)
    monkeypatch.setattr(images, "load", lambda *args: decoded.append(args[0]) or load(*args))
    decoded.clear()
    same(obtain(config, model, tiny_root, names), undisturbed)
    assert 0 < len(decoded) < 42
    decoded.clear()
    same(obtain(config, model, tiny_root, names), undisturbed)
    assert not decoded


def test_what_a_kill_left_of_the_arrays_is_thrown_away(tiny_config, model, tiny_root, names):
    config = tiny.freeze(tiny_config)
    spec = store.bank_spec(config, "digest", tiny_root / "patches" / "images", names, 2)
    half = spec.folder.with_suffix(".partial")
    half.mkdir(parents=True)
    (half / "dense.npy").write_bytes(b"cut short")
    assert len(obtain(config, model, tiny_root, names).dense) == 42


def test_key_covers_all_that_a_bank_depends_on(tiny_config, tiny_root, names, tmp_path):
    root = tmp_path / "images"
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((tiny_root / "patches" / "images" / name).read_bytes())

    def folder(digest="digest", names=names, views=2, **knobs):
        return store.bank_spec(tiny.freeze(tiny_config, **knobs), digest, root, names, views).folder

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


def test_dense_maps_too_large_for_16_bits_are_refused(tiny_config, tiny_root, names):
    model = clip.load(tiny_root / "clip_tiny")
    model.visual.layer4[0].bn3.bias[...] += 1e6
    with pytest.raises(InputError, match=r"do not fit float16: set config\.bank_dtype=float32"):
        obtain(tiny.freeze(tiny_config), model, tiny_root, names)
    config = tiny.freeze(tiny_config, bank_dtype="float32")
    assert obtain(config, model, tiny_root, names).dense[:].max() > 1e5


def test_a_full_disk_is_told_before_any_work(tiny_config, model, tiny_root, names, monkeypatch):
    spec = store.bank_spec(tiny.freeze(tiny_config), "digest", tiny_root, names, 2)
    store.check_space([spec, spec], model.config)
    usage = store.shutil.disk_usage(tiny_root)._replace(free=2 * 42 * 2000)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"the banks take 0\.0 GB, .* set config\.cache_dir"):
        store.check_space([spec, spec], model.config)


def test_rows_are_what_numpy_indexes(tmp_path):
    whole = np.random.default_rng(0).normal(size=(50, 3, 5)).astype(np.float16)
    np.save(tmp_path / "rows.npy", whole)
    found = row_file.RowFile(tmp_path / "rows.npy")
    assert (len(found), found.shape, found.dtype, found.nbytes) == (
        50,
        (50, 3, 5),
        np.float16,
        1500,
    )
    for which in (
        7, -1, slice(3, 9), slice(None, None, -2), [4, 5, 6, 2, 2, 49, 0],
        np.array([[1, 2], [40, 3]]), np.arange(50) % 3 == 0, np.array([], int),
    ):  # fmt: skip
        np.testing.assert_array_equal(found[which], whole[which])
    np.testing.assert_array_equal(found, whole)
    with pytest.raises(IndexError):
        found[50]


def test_a_bank_that_was_cut_short_is_told(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((50, 8)))
    found = row_file.RowFile(tmp_path / "rows.npy")
    os.truncate(tmp_path / "rows.npy", 1000)
    with pytest.raises(OSError, match="shorter than it was"):
        found[:]


# Batches.


def test_batches_are_made_ahead_in_order_and_their_errors_are_raised():
    made = []

    def counted():
        for number in range(5):
            made.append(number)
            yield number
        raise ValueError("no more")

    found = devices.prefetch(counted(), depth=2)
    assert next(found) == 0
    while len(made) < 3:  # two more are made while nobody asks
        pass
    assert [next(found) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="no more"):
        next(found)


def test_a_batch_is_cut_alike_from_the_whole_and_from_a_host_s_rows():
    mesh = devices.make_mesh()
    whole = np.arange(32).reshape(16, 2)
    np.testing.assert_array_equal(devices.own_rows(mesh, 16), np.arange(16))
    for cut in (devices.shard(mesh, whole), devices.shard_own(mesh, whole, 16)):
        np.testing.assert_array_equal(cut, whole)
        assert [shard.data.shape for shard in cut.addressable_shards] == [(2, 2)] * 8


def test_plan_gives_every_image_once_an_epoch():
    plan = batches.plan(count=10, views=3, batch_size=4, epochs=2, seed=5, multiple_of=8)
    assert plan.image_sb.shape == plan.view_sb.shape == (6, 8)
    assert (plan.steps, plan.steps_per_epoch) == (6, 3)
    for epoch in (plan.image_sb[:3], plan.image_sb[3:]):
        assert sorted(epoch[epoch != batches.PAD]) == list(range(10))
        assert [(step != batches.PAD).sum() for step in epoch] == [4, 4, 2]
    order = np.random.RandomState(5)
    np.testing.assert_array_equal(plan.image_sb[:2, :4].ravel(), order.permutation(10)[:8])
    assert set(plan.view_sb[plan.image_sb != batches.PAD]) == {0, 1, 2}
    # Devices fill batches up, they do not change them.
    np.testing.assert_array_equal(batches.plan(10, 3, 4, 2, 5).image_sb, plan.image_sb[:, :4])


@pytest.mark.parametrize("held", [False, True])
def test_batches_of_a_bank_are_the_rows_planned(
    held, tiny_config, model, tiny_root, names, monkeypatch
):
    """Whether they are read for each batch, or lie on devices that have memory of their own."""
    if held:
        monkeypatch.setattr(batches, "device_budget", lambda mesh: 10**9)
        monkeypatch.setattr(batches, "READ_AT_ONCE", 2)
        monkeypatch.setattr(devices, "prefetch", None)
    mesh = devices.make_mesh()
    bank = obtain(tiny.freeze(tiny_config), model, tiny_root, names)
    image_n, label_n = np.array([4, 9, 2]), np.array([7, 8, 9])
    plan = batches.plan(3, 2, batch_size=2, epochs=1, seed=0, multiple_of=mesh.size)
    found = list(batches.from_bank(bank, image_n, label_n, plan, mesh))
    assert len(found) == 2
    cut = devices.sharded(mesh)
    assert all(x.sharding.is_equivalent_to(cut, x.ndim) for x in found[0].values())
    for batch, image_b, view_b in zip(found, plan.image_sb, plan.view_sb, strict=True):
        real = image_b != batches.PAD
        np.testing.assert_array_equal(batch["mask_b"], real)
        np.testing.assert_array_equal(batch["label_b"][real], label_n[image_b[real]])
        rows = image_n[image_b] * 2 + view_b
        np.testing.assert_array_equal(batch["dense_bhwc"][real], bank.dense[rows[real]])
        np.testing.assert_array_equal(batch["original_bd"][real], bank.pooled[rows[real]])


def test_what_is_held_leaves_devices_most_of_their_memory():
    def mesh(*limits):
        stats = [limit and {"bytes_limit": limit} for limit in limits]
        devices = [types.SimpleNamespace(memory_stats=lambda one=one: one) for one in stats]
        return types.SimpleNamespace(local_devices=devices)

    assert batches.device_budget(mesh(80, 40)) == 10
    assert batches.device_budget(mesh(80, None)) == 0
    assert batches.device_budget(devices.make_mesh()) == 0


def test_online_batches_can_start_anywhere(tiny_config, model, tiny_root, names):
    mesh = devices.make_mesh()
    config = tiny.freeze(tiny_config)
    root = tiny_root / "patches" / "images"
    records = [Record(name, label, "") for label, name in enumerate(names[:5])]
    plan = batches.plan(5, 1, batch_size=2, epochs=2, seed=0, multiple_of=mesh.size)
    whole, rest = (
        list(batches.online(model, root, records, plan, 1, config, mesh, first)) for first in (0, 4)
    )
    assert [len(whole), len(rest)] == [6, 2]
    for batch, wanted in zip(rest, whole[4:], strict=True):
        for key, x in wanted.items():
            np.testing.assert_array_equal(batch[key], x)
    first_epoch, second_epoch = whole[0]["dense_bhwc"], whole[3]["dense_bhwc"]
    assert (np.asarray(first_epoch) != np.asarray(second_epoch)).any()
