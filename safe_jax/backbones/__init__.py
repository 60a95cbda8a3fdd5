"""The pre-trained models that SAFE can tune: what all of them give, and where each is found.

A backbone is a room (`clip/`, `siglip/`); `catalogue.py` lists them. Everything above this room
uses a backbone through `contract.py` and does not know which it is.

    from safe_jax import backbones

    model = backbones.load("RN50")
"""

from safe_jax.backbones.catalogue import FAMILIES, LICENCES, NAMES, load, locate, read_metadata

__all__ = ["FAMILIES", "LICENCES", "NAMES", "load", "locate", "read_metadata"]
