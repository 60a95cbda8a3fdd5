"""How far a classifier's confidence can be believed, and how far its accuracy. Loads no JAX.

Axes: n images, k classes. Confidence is the highest probability of an image.
"""

import math
from collections.abc import Sequence

import numpy as np

from safe_jax.runtime import schema
from safe_jax.runtime.schema import Count, Fraction, Percent

BINS = 15
_NORMAL_QUANTILE = 1.959963984540054  # 97.5 % of the normal distribution lie below
_BLOCK = 4096  # images whose probabilities are computed at a time: ImageNet's would fill gigabytes


class Bin(schema.Model):
    """The images whose confidence lies in the bin; mean confidence is in per cent."""

    count: Count
    confidence: Percent | None  # None, as accuracy: there is no image
    accuracy: Percent | None


class Covered(schema.Model):
    """The part of the images whose confidence is at least the threshold, in per cent."""

    threshold: Fraction
    coverage: Percent
    accuracy: Percent | None  # among these images; None: there is none


def expected_calibration_error(
    probability_nk: np.ndarray, label_n: np.ndarray, bins: int = BINS
) -> float:
    """How far confidence and accuracy lie apart, in per cent: the mean over images of the
    distance in their bin (Guo et al. 2017, arXiv 1706.04599, equation 3).

    Bins have equal width; bin m of M has the confidences above (m - 1) / M and up to m / M.
    """
    right_n = probability_nk.argmax(1) == label_n
    return calibration_error(reliability(probability_nk.max(1), right_n, bins))


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy, in per cent (Wilson 1927, doi 10.2307/2276774).

    It holds for few images and near 0 and 100 %, where mean ± 1.96 standard errors does not.
    Without an image it is from 0 to 100.
    """
    if not count:
        return 0.0, 100.0
    share, weight = right / count, _NORMAL_QUANTILE**2 / count
    middle = share + weight / 2
    half = math.sqrt(weight * share * (1 - share) + weight**2 / 4)
    low, high = (middle - half) / (1 + weight), (middle + half) / (1 + weight)
    return max(0.0, 100 * low), min(100.0, 100 * high)


def confidence(logits_nk: np.ndarray, temperature: float) -> np.ndarray:
    """The highest value of the softmax of `logits / temperature`, `(n,)`, in double precision."""
    blocks = np.array_split(logits_nk, range(_BLOCK, len(logits_nk), _BLOCK))
    return np.concatenate([_highest(logits_bk.astype(float), temperature) for logits_bk in blocks])


def _highest(logits_bk: np.ndarray, temperature: float) -> np.ndarray:
    return 1 / np.exp((logits_bk - logits_bk.max(1, keepdims=True)) / temperature).sum(1)


def percent(part: int, whole: int) -> float:
    return 100 * part / whole


def reliability(confidence_n: np.ndarray, right_n: np.ndarray, bins: int = BINS) -> list[Bin]:
    """The bins of equal width, from 0 to 1, with the images whose confidence lies in each."""
    upper_edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin_n = np.searchsorted(upper_edges, confidence_n)
    found = []
    for number in range(bins):
        inside_n = bin_n == number
        count = int(inside_n.sum())
        found.append(
            Bin(
                count=count,
                confidence=100 * float(confidence_n[inside_n].mean()) if count else None,
                accuracy=percent(int(right_n[inside_n].sum()), count) if count else None,
            )
        )
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """The error that `expected_calibration_error` explains, from the bins."""
    count = sum(one.count for one in bins)
    parts = [
        one.count * abs(one.accuracy - one.confidence)
        for one in bins
        if one.accuracy is not None and one.confidence is not None
    ]
    return sum(parts) / count


def covered(threshold: float, confidence_n: np.ndarray, right_n: np.ndarray) -> Covered:
    """How many images are as sure as the threshold, and how many of these are right."""
    covered_n = confidence_n >= threshold
    count = int(covered_n.sum())
    accuracy = percent(int(right_n[covered_n].sum()), count) if count else None
    coverage = percent(count, len(right_n))
    return Covered(threshold=threshold, coverage=coverage, accuracy=accuracy)
