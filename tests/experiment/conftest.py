"""What devices change is tested elsewhere."""

import pytest


@pytest.fixture(autouse=True)
def _two_devices(two_devices):
    pass
