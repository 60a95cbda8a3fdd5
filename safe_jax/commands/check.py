"""`safe-jax check`: what is there of a data set."""

from safe_jax.data import check


def main(argv: list[str]) -> int:
    """As `python -m safe_jax.data.check`."""
    return check.main(argv, "safe-jax check")
