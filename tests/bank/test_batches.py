"""Which image and which view go into which step, and the batches made of them."""

import types

import numpy as np
import pytest

from safe_jax.bank import batches
from safe_jax.bank.fresh_crops import FreshCrops
from safe_jax.bank.store import BankSettings
from safe_jax.bank.view import View
from safe_jax.data.records import Record
from safe_jax.runtime import devices


@pytest.fixture
def view():
    """Three of ten images in two views, with labels."""
    rng = np.random.default_rng(0)
    arrays = {
        "dense_bhwc": rng.normal(size=(20, 2, 2, 3)).astype(np.float16),
        "original_bd": rng.normal(size=(20, 5)).astype(np.float32),
    }
    image_n, label_n = np.array([4, 9, 2]), np.array([7, 8, 9])
    return View("random", arrays, 2, image_n, label_n)


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


@pytest.mark.parametrize(
    ("batch_size", "count", "size"),
    [(64, 3, 64), (256, 3, 256), (65_536, 3, 256), (65_536, 3_000, 3_000), (512, 3_000, 512)],
)
def test_a_large_batch_is_not_filled_up_with_nothing(batch_size, count, size, view):
    assert batches.plan(count, 1, batch_size, 1, seed=0).image_sb.shape[1] == size
    if count == len(view):
        (batch,) = batches.in_order(view, batch_size, devices.make_mesh())
        assert batch["mask_b"].shape == (size,)


@pytest.mark.parametrize(("count", "batch_size", "epochs"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_plan_of_nothing_is_refused(count, batch_size, epochs):
    with pytest.raises(ValueError, match=f"no batch from {count} images, batch size {batch_size}"):
        batches.plan(count, 1, batch_size, epochs, seed=0)


@pytest.mark.parametrize("on_devices", [False, True])
def test_batches_of_a_view_are_the_rows_planned(view, on_devices, monkeypatch):
    """Whether they are read for each batch, or lie on devices that have memory of their own."""
    if on_devices:
        monkeypatch.setattr(batches, "device_budget", lambda mesh: 10**9)
        monkeypatch.setattr(batches, "READ_AT_ONCE", 2)
        monkeypatch.setattr(devices, "prefetch", None)
    mesh = devices.make_mesh()
    plan = batches.plan(3, 2, batch_size=2, epochs=1, seed=0, multiple_of=mesh.size)
    found = list(view.batches(plan, mesh))
    assert len(found) == 2
    cut = devices.sharded(mesh)
    assert all(x.sharding.is_equivalent_to(cut, x.ndim) for x in found[0].values())
    for batch, image_b, view_b in zip(found, plan.image_sb, plan.view_sb, strict=True):
        is_image = image_b != batches.PAD
        np.testing.assert_array_equal(batch["mask_b"], is_image)
        np.testing.assert_array_equal(batch["label_b"][is_image], view.label_n[image_b[is_image]])
        rows = view.image_n[image_b] * 2 + view_b
        for name, x in view.arrays.items():
            np.testing.assert_array_equal(batch[name][is_image], x[rows[is_image]])


def test_rows_that_fill_a_batch_up_have_label_0():
    """The label of a row that does not count is no other image's."""
    made = batches.labels(np.array([3, 4]), np.array([1, batches.PAD]))
    np.testing.assert_array_equal(made["label_b"], [4, 0])
    np.testing.assert_array_equal(made["mask_b"], [1, 0])


def test_in_order_reads_every_centre_crop_once(view):
    mesh = devices.make_mesh()
    (batch,) = batches.in_order(view, 2, mesh)  # the least multiple of eight devices
    assert batch["mask_b"].sum() == 3
    np.testing.assert_array_equal(batch["label_b"][:3], view.label_n)
    wanted = view.arrays["original_bd"][view.image_n * 2]
    np.testing.assert_array_equal(batch["original_bd"][:3], wanted)


def test_a_bank_on_devices_leaves_them_most_of_their_memory():
    def mesh(*limits):
        stats = [limit and {"bytes_limit": limit} for limit in limits]
        fakes = [types.SimpleNamespace(memory_stats=lambda one=one: one) for one in stats]
        return types.SimpleNamespace(local_devices=fakes)

    assert batches.device_budget(mesh(80, 40)) == 10
    assert batches.device_budget(mesh(80, None)) == 0
    assert batches.device_budget(devices.make_mesh()) == 0


def test_fresh_crops_can_start_at_any_step(model, tiny_root):
    mesh = devices.make_mesh()
    root = tiny_root / "patches" / "images"
    names = sorted(str(file.relative_to(root)) for file in root.rglob("train_*.jpg"))[:5]
    records = [Record(name, label, "") for label, name in enumerate(names)]
    settings = BankSettings(dtype="float32", workers=2)
    crops = FreshCrops(model, root, records, seed=1, settings=settings)
    plan = batches.plan(crops.count, 1, batch_size=2, epochs=2, seed=0, multiple_of=mesh.size)
    whole, rest = (list(crops.batches(plan, mesh, first)) for first in (0, 4))
    assert [len(whole), len(rest)] == [6, 2]
    for batch, wanted in zip(rest, whole[4:], strict=True):
        for key, x in wanted.items():
            np.testing.assert_array_equal(batch[key], x)
    first_epoch, second_epoch = whole[0]["dense_bhwc"], whole[3]["dense_bhwc"]
    assert (np.asarray(first_epoch) != np.asarray(second_epoch)).any()
