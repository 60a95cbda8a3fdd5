"""`safe-jax convert`: a torch checkpoint to weights, or back."""

from safe_jax.backbones import convert


def main(argv: list[str]) -> int:
    """As `tools/convert_torch_weights.py`."""
    return convert.main(argv, "safe-jax convert")
