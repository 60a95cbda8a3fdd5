"""Classifiers of images by every method, of the run that the session shares."""

import numpy as np
import pytest

from safe_jax.experiment import keep
from safe_jax.methods.catalogue import METHODS


@pytest.fixture(scope="session")
def kept(every_method):
    """An `ImageClassifier` of each method, by name."""
    return {name: keep.image_classifier(every_method.trial, name) for name in METHODS}


@pytest.fixture(scope="session")
def pixels_bhwc():
    """Three pictures, of noise at several scales."""
    random = np.random.default_rng(0)
    pictures = [
        np.kron(random.integers(0, 256, (64 // side, 64 // side, 3)), np.ones((side, side, 1)))
        for side in (1, 8, 32)
    ]
    return np.stack(pictures).astype(np.uint8)
