"""Scenes are drawn from their seeds, with things where their boxes say."""

import random

import numpy as np
import pytest

from safe_jax.data import scenes


def red(pixels_hwc):
    """Where a picture on a white ground is red."""
    return pixels_hwc[..., 0] > pixels_hwc[..., 1:].max(-1).astype(int) + 90


@pytest.mark.parametrize("kind", ["digit", "letter", "shape"])
def test_things_are_drawn_in_their_boxes(kind):
    for seed in range(20):
        rng = random.Random(seed)
        thing = scenes.random_thing(rng, kind, "white")._replace(colour="red")
        scene = scenes.draw(rng, 128, [thing], "white", [(0.3, 0.5)])
        box = scene.boxes[0]
        inside = np.zeros((128, 128), bool)
        inside[box.top : box.top + box.side, box.left : box.left + box.side] = True
        assert red(scene.pixels)[inside].mean() > 0.03
        assert not red(scene.pixels)[~inside].any()


def test_things_do_not_hide_each_other():
    for seed in range(50):
        rng = random.Random(seed)
        things = [scenes.random_thing(rng, "shape", "grey") for _ in range(4)]
        boxes = scenes.draw(rng, 128, things, "grey", [(0.26, 0.45)] * 4).boxes
        assert len(boxes) >= 2
        count_hw = np.zeros((128, 128), int)
        for left, top, side in boxes:
            count_hw[top : top + side, left : left + side] += 1
        assert (count_hw > 1).sum() <= 0.05 * 6 * max(side for *_, side in boxes) ** 2


def test_a_scene_is_its_seeds():
    def draw(seed):
        rng = random.Random(seed)
        return scenes.draw(rng, 64, [scenes.random_thing(rng, "digit", "blue")], "blue", [(0.5, 1)])

    np.testing.assert_array_equal(draw(1).pixels, draw(1).pixels)
    assert (draw(1).pixels != draw(2).pixels).any()
