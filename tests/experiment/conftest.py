"""What devices change is tested elsewhere."""

import pytest


@pytest.fixture(autouse=True)
def _one_device(one_device):
    pass
