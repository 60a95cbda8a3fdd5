"""Winograd's form of a 3x3 convolution: 16 multiplications in place of 36.

The image is cut into tiles of 2 x 2 outputs, each of which sees 4 x 4 inputs. In one dimension, two
outputs of a kernel `(x, y, z)` on inputs `(p, q, r, s)` take four multiplications, not six:

    t = (p - r) x    u = (q + r) (x + y + z) / 2    v = (r - q) (x - y + z) / 2    w = (q - s) z
    outputs: t + u + v and u - v - w

In two dimensions the same is done to rows, then to columns; the products become matrix products
over channels. (Lavin and Gray, 2015, have it as F(2 x 2, 3 x 3).) Rounding differs from the plain
sum's by no more than that of another order of summation; but inputs are added before they are
multiplied, for which float32 is precise enough and 16 bits are not.

Axes: b images, h rows, w columns, c channels in, d channels out.
"""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

# Accelerators round float32 operands to 10 bits or to 7 by default.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

Grid = list[tuple[jax.Array, ...]]  # 4 rows of 4 arrays, or 2 of 2


def transform(kernel_hwcd: jax.Array) -> Grid:
    """Transforms a 3x3 kernel for `convolve`: 4 rows of 4 matrices `(c, d)`."""
    return _on_rows_and_columns(
        lambda x, y, z: (x, (x + y + z) / 2, (x - y + z) / 2, z), kernel_hwcd
    )


def convolve(x_bhwc: jax.Array, kernels_cd: Grid) -> jax.Array:
    """The 3x3 convolution with stride 1 and a border of zeros: `(b, h, w, d)`."""
    b, h, w, _ = x_bhwc.shape
    rows, columns = -(-h // 2), -(-w // 2)  # of tiles
    border = (0, 0), (1, 2 * rows - h + 1), (1, 2 * columns - w + 1), (0, 0)
    x_bhwc = jnp.pad(x_bhwc, border)
    inputs = [
        [x_bhwc[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for j in range(4)]
        for i in range(4)
    ]
    inputs = _on_rows_and_columns(lambda p, q, r, s: (p - r, q + r, r - q, q - s), inputs)
    # Sixteen products rather than a product of stacks: stacking takes longer than multiplying.
    products = [map(_product, *both) for both in zip(inputs, kernels_cd, strict=True)]
    outputs = _on_rows_and_columns(lambda t, u, v, w: (t + u + v, u - v - w), products)
    tiles = jnp.stack([jnp.stack(row, 3) for row in outputs], 2)  # (b, rows, 2, columns, 2, d)
    return tiles.reshape(b, 2 * rows, 2 * columns, -1)[:, :h, :w]


def _on_rows_and_columns(
    function: Callable[..., tuple[jax.Array, ...]], grid: Iterable[Iterable[jax.Array]]
) -> Grid:
    """Replaces each row of a grid by `function(*row)`, then each column alike."""
    rows = [function(*row) for row in grid]
    columns = [function(*column) for column in zip(*rows, strict=True)]
    return list(zip(*columns, strict=True))
