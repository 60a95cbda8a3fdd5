"""`safe-jax report`: the page of an experiment, or of several."""

from safe_jax.report import __main__ as report


def main(argv: list[str]) -> int:
    """As `python -m safe_jax.report`."""
    return report.main(argv, "safe-jax report")
