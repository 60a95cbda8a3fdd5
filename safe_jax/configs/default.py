"""Every knob at its default. The other configs state what they change.

`python -m safe_jax.main --knobs` lists all knobs with their defaults, bounds and meanings; they are
declared in safe_jax/experiment/knobs.py and in the rooms that read them, those of a method in the
method's module.
"""

from ml_collections import ConfigDict

from safe_jax.experiment import knobs


def get_config() -> ConfigDict:
    return knobs.default_config()
