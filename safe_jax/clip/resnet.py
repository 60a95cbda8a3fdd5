"""The trunk of CLIP's ResNets: a preprocessed image to a dense map.

Three things differ from the ResNet of He et al.: a stem of three convolutions; average pooling
in place of every stride of 2 but that of the stem's first convolution; and no global pooling at the
end, for which CLIP has its attention pool. Attributes keep the names of OpenAI's checkpoints.

Axes: b images, h rows, w columns, c channels.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from safe_jax.clip import winograd


def _conv(in_features, out_features, size, *, stride=1, dtype, rngs):
    return nnx.Conv(
        in_features,
        out_features,
        (size, size),
        strides=stride,
        padding=size // 2,  # as in torch; "SAME" pads a strided convolution differently
        use_bias=False,
        dtype=dtype,
        rngs=rngs,
    )


_batch_norm = partial(nnx.BatchNorm, use_running_average=True, momentum=0.9, epsilon=1e-5)


def _halve(x_bhwc: jax.Array) -> jax.Array:
    """Means of 2 x 2 cells, as a sum of slices, which XLA fuses with the preceding operation."""
    sum_bhwc: Any = sum(x_bhwc[:, i::2, j::2] for i in (0, 1) for j in (0, 1))
    return sum_bhwc / 4


class FoldedConv(nnx.Module):
    """A convolution with the following batch norm folded in, in its cheapest form."""

    def __init__(self, conv: nnx.Conv, norm: nnx.BatchNorm):
        scale: Any = norm.scale  # Flax declares it optional; the norms here have one
        scale_c = scale[...] / (norm.var[...] + norm.epsilon) ** 0.5
        kernel_hwcd: Any = (conv.kernel[...] * scale_c).astype(conv.dtype)
        self.strides: Any = conv.strides
        self.padding: Any = conv.padding
        self.is_product = conv.kernel_size == (1, 1)
        self.is_winograd = not self.is_product and conv.strides == 1 and conv.dtype == jnp.float32
        if self.is_product:
            kernel_hwcd = kernel_hwcd[0, 0]
        elif self.is_winograd:
            kernel_hwcd = winograd.transform(kernel_hwcd)
        self.kernel = nnx.Param(kernel_hwcd)
        bias: Any = norm.bias
        self.bias = nnx.Param((bias[...] - norm.mean[...] * scale_c).astype(conv.dtype))

    def __call__(self, x_bhwc: jax.Array) -> jax.Array:
        kernel: Any = self.kernel.get_value()
        bias_d = self.bias[...]
        x_bhwc = x_bhwc.astype(bias_d.dtype)
        if self.is_product:
            return x_bhwc @ kernel + bias_d
        if self.is_winograd:
            return winograd.convolve(x_bhwc, kernel) + bias_d
        return bias_d + jax.lax.conv_general_dilated(
            x_bhwc,
            kernel,
            (self.strides, self.strides),
            [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


def _fold(module, *pairs):
    """Folds the second attribute of each pair, a batch norm, into the first, a convolution."""
    for conv, norm in pairs:
        setattr(module, conv, FoldedConv(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, _Identity())


class _Identity(nnx.Module):
    def __call__(self, x_bhwc: jax.Array) -> jax.Array:
        return x_bhwc


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the output has `4 * features` channels.

    With `halves`, height and width of the output are half of the input's.
    """

    def __init__(
        self, in_features: int, features: int, *, halves: bool, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        conv = partial(_conv, dtype=dtype, rngs=rngs)
        norm = partial(_batch_norm, dtype=dtype, rngs=rngs)
        self.halves = halves
        self.conv1 = conv(in_features, features, 1)
        self.bn1 = norm(features)
        self.conv2 = conv(features, features, 3)
        self.bn2 = norm(features)
        self.conv3 = conv(features, 4 * features, 1)
        self.bn3 = norm(4 * features)
        self.has_downsample = halves or in_features != 4 * features
        if self.has_downsample:
            self.downsample_conv = conv(in_features, 4 * features, 1)
            self.downsample_bn = norm(4 * features)

    def __call__(self, x_bhwc: jax.Array) -> jax.Array:
        y_bhwc = jax.nn.relu(self.bn1(self.conv1(x_bhwc)))
        y_bhwc = jax.nn.relu(self.bn2(self.conv2(y_bhwc)))
        if self.halves:
            y_bhwc, x_bhwc = _halve(y_bhwc), _halve(x_bhwc)
        y_bhwc = self.bn3(self.conv3(y_bhwc))
        if self.has_downsample:
            x_bhwc = self.downsample_bn(self.downsample_conv(x_bhwc))
        return jax.nn.relu(x_bhwc + y_bhwc)


def _stage(blocks, in_features, features, *, halves, **kwargs):
    first = Bottleneck(in_features, features, halves=halves, **kwargs)
    others = [Bottleneck(4 * features, features, halves=False, **kwargs) for _ in range(blocks - 1)]
    return nnx.List([first, *others])


class ResNet(nnx.Module):
    """Images `(b, size, size, 3)` to dense maps `(b, size / 32, size / 32, 32 * width)`."""

    def __init__(
        self,
        layers: tuple[int, int, int, int],
        width: int,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        conv = partial(_conv, dtype=dtype, rngs=rngs)
        norm = partial(_batch_norm, dtype=dtype, rngs=rngs)
        self.conv1 = conv(3, width // 2, 3, stride=2)
        self.bn1 = norm(width // 2)
        self.conv2 = conv(width // 2, width // 2, 3)
        self.bn2 = norm(width // 2)
        self.conv3 = conv(width // 2, width, 3)
        self.bn3 = norm(width)

        stage = partial(_stage, dtype=dtype, rngs=rngs)
        self.layer1 = stage(layers[0], width, width, halves=False)
        self.layer2 = stage(layers[1], 4 * width, 2 * width, halves=True)
        self.layer3 = stage(layers[2], 8 * width, 4 * width, halves=True)
        self.layer4 = stage(layers[3], 16 * width, 8 * width, halves=True)

    def folded(self) -> "ResNet":
        """The same function for inference alone: batch norms are folded into the convolutions."""
        trunk = nnx.clone(self)
        stem = ("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")
        _fold(trunk, *stem)
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            for block in stage:
                _fold(block, *stem)
                if block.has_downsample:
                    _fold(block, ("downsample_conv", "downsample_bn"))
        return trunk

    def __call__(self, images_bhwc: jax.Array) -> jax.Array:
        x_bhwc = jax.nn.relu(self.bn1(self.conv1(images_bhwc)))
        x_bhwc = jax.nn.relu(self.bn2(self.conv2(x_bhwc)))
        x_bhwc = jax.nn.relu(self.bn3(self.conv3(x_bhwc)))
        x_bhwc = _halve(x_bhwc)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x_bhwc = block(x_bhwc)
        return x_bhwc
