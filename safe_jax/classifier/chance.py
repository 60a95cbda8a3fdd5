"""Whether zero-shot knows the classes at all: weights that do not are told of."""

from safe_jax.classifier.calibration import wilson_interval
from safe_jax.runtime.errors import counted


def note(right: int, count: int, classes: int) -> str | None:
    """Says that zero-shot, right on so many of `count` images, is no better than chance.

    None where it is, by its 95% interval.
    """
    chance = 100 / classes
    low, _ = wilson_interval(right, count)
    if low > chance:
        return None
    return (
        f"these weights do not know these classes, as far as {counted(count, 'image')} can tell: "
        f"zero-shot is right on {right} of them ({100 * right / count:.1f} %), and chance is "
        f"{chance:.1f} %. Other templates or other weights may help"
    )
