"""Dense maps that no image gave, and all that the model computes from them."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.fake_features import COUNT, batch_of


@pytest.fixture(scope="package")
def maps(model):
    dense = np.random.default_rng(0).exponential(size=(COUNT, *model.config.dense_shape))
    return dense.astype(np.float32)


@pytest.fixture(scope="package")
def real_batch(model, maps, data):
    """A batch with every array; those of the original pool are the model's."""
    return batch_of(
        data,
        dense_bhwc=jnp.asarray(maps),
        original_bd=model.attnpool(maps),
        unprojected_bu=model.attnpool.unprojected(maps),
    )
