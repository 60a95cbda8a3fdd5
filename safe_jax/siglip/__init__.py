"""SigLIP and SigLIP 2 of a fixed resolution: a ViT whose tokens a learned probe attends to.

The trunk's tokens after its last norm are the dense map, and the MAP head is the attention pool.
NaFlex variants, which keep an image's aspect ratio, are not read.
"""

from safe_jax.siglip.family import FAMILY
from safe_jax.siglip.hub import LICENCES, NAMES, fetch

__all__ = ["FAMILY", "LICENCES", "NAMES", "fetch"]
