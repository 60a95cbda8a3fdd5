"""Converts a backbone from its checkpoint to an Orbax directory, or back.

python tools/convert_torch_weights.py RN50.pt weights/RN50
python tools/convert_torch_weights.py --to-torch weights/RN50 RN50_again.pt
"""

import sys

from safe_jax.backbones.convert import main

if __name__ == "__main__":
    sys.exit(main())
