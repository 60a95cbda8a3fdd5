"""Winograd's form against torch's convolution."""

import numpy as np
import pytest
import torch

from safe_jax.clip import winograd
from tests.clip.parity import relative, to_torch


@pytest.mark.parametrize("size", [(7, 7), (8, 6), (1, 2)])
def test_winograds_form_is_the_convolution(size):
    rng = np.random.default_rng(0)
    x_bhwc = rng.normal(size=(2, *size, 5)).astype(np.float32)
    kernel_hwcd = rng.normal(size=(3, 3, 5, 4)).astype(np.float32)
    expected_bdhw = torch.nn.functional.conv2d(
        to_torch(x_bhwc), torch.from_numpy(kernel_hwcd).permute(3, 2, 0, 1), padding=1
    )
    found_bhwd = winograd.convolve(x_bhwc, winograd.transform(kernel_hwcd))
    assert relative(found_bhwd, expected_bdhw.permute(0, 2, 3, 1)) < 1e-6
