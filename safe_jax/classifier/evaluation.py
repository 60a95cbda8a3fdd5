"""What is said of a classifier on labelled images: how often it is right, how sure it is, and where
it errs. It is computed from logits, kept as plain values, and loads no JAX.

Axes: n images, k classes, h rows and w columns of cells. Confidence is the
highest probability of an image.
"""

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import AfterValidator, Field

from safe_jax.classifier import calibration
from safe_jax.classifier.calibration import (
    Bin,
    Covered,
    expected_calibration_error,
    percent,
    wilson_interval,
)
from safe_jax.runtime import schema
from safe_jax.runtime.errors import InputError, counted
from safe_jax.runtime.schema import Bounds, Count, Fraction, Percent, Positive, Text

THRESHOLDS = (*(round(0.05 * step, 2) for step in range(20)), 0.99)
MOST_MISTAKES = 12
_MOST_LISTED = 5  # classes, or pairs of them, in the summary


def _equal_lengths(rows: list[list[float]]) -> list[list[float]]:
    if len({len(row) for row in rows}) > 1:
        raise ValueError("lists of equal length are expected")
    return rows


def _jpeg(uri: str) -> str:
    if not uri.startswith("data:image/jpeg;base64,"):
        raise ValueError("a data URI of a JPEG in base64 is expected")
    return uri


_NotEmpty = Field(min_length=1)
Matrix = Annotated[
    list[Annotated[list[Fraction], _NotEmpty]], _NotEmpty, AfterValidator(_equal_lengths)
]
Picture = Annotated[Text, AfterValidator(_jpeg)]


class Attention(schema.Model, extra="ignore"):
    """Where each pool looks, `(h, w)`: the mean over heads, summing to 1 over cells."""

    original: Matrix
    tuned: Matrix


class Interval(schema.Model):
    low: Percent
    high: Percent


class ClassResult(schema.Model):
    """A class: `count` is of its images, precision and recall are in per cent."""

    name: Text
    count: Count
    precision: Percent | None  # None: it was no image's answer
    recall: Percent | None  # None: it has no image


class Mistake(schema.Model):
    """An image with a wrong answer. Whoever has the image adds the picture and the attention."""

    path: Text
    label: Text
    answer: Text
    probability: Fraction  # of the answer
    picture: Picture | None = None
    attention: Attention | None = None


class Confusion(NamedTuple):
    """How many images of the class `label` have the class `answer` as answer."""

    label: str
    answer: str
    count: int


class Facts(NamedTuple):
    """What logits do not tell; the meaning of each is that in `Evaluation`."""

    classifier: str
    photos: str
    method: str
    seen: int = 0
    unreadable: Sequence[tuple[str, str]] = ()


class Evaluation(schema.Model):
    """Everything that is said of a classifier. JSON of it is read back as the same object."""

    classifier: Text = schema.knob(..., "its name")
    photos: Text = schema.knob(..., "what was evaluated: a folder, a list of images")
    method: Text = schema.knob(..., "the label of its method")
    classes: list[Text] = schema.knob(..., "names, by label")
    count: Positive = schema.knob(..., "images that were evaluated")
    unreadable: list[tuple[Text, Text]] = schema.knob([], "path and reason of images left out")
    seen: Count = schema.knob(0, "of the evaluated images, those the classifier was fitted on")
    temperature: Annotated[float, AfterValidator(Bounds(gt=0))] = schema.knob(
        ..., "that logits are divided by"
    )
    accuracy: Percent
    interval: Interval = schema.knob(..., "the 95 % interval of the accuracy, by Wilson's score")
    per_class: list[ClassResult]
    confusion: list[list[Count]] = schema.knob(..., "images by label and by answer, (k, k)")
    calibration_error: Percent = schema.knob(..., "expected, with the temperature")
    calibration_error_untempered: Percent = schema.knob(..., "the same at temperature 1")
    reliability: list[Bin] = schema.knob(..., "bins of equal width from 0 to 1, with temperature")
    coverage: list[Covered] = schema.knob(..., "by threshold, with the temperature")
    mistakes: list[Mistake] = schema.knob([], "at most 12, those of the highest probability first")

    def confusions(self) -> list[Confusion]:
        """The wrong answers by pair of classes, the most frequent pair first."""
        found = [
            Confusion(self.classes[label], self.classes[answer], count)
            for label, row in enumerate(self.confusion)
            for answer, count in enumerate(row)
            if count and label != answer
        ]
        return sorted(found, key=lambda pair: -pair.count)

    def by_recall(self) -> list[ClassResult]:
        """The classes with the lowest recall first; those without an image last."""
        return sorted(self.per_class, key=lambda of: math.inf if of.recall is None else of.recall)

    def with_looks(
        self, pictures: Sequence[str | None], attention: Sequence[Attention | None]
    ) -> Self:
        """The same with a picture (data URI of a JPEG) and attention for each mistake, in order."""
        looks = zip(self.mistakes, pictures, attention, strict=True)
        mistakes = [
            schema.check(
                Mistake, {**dict(mistake), "picture": picture, "attention": maps}, "mistake."
            )
            for mistake, picture, maps in looks
        ]
        return self.model_copy(update={"mistakes": mistakes})


def evaluate_probabilities(
    logits_nk: np.ndarray,
    label_n: np.ndarray,
    paths: Sequence[str],
    classes: Sequence[str],
    temperature: float,
    facts: Facts,
) -> Evaluation:
    """Evaluates the softmax of `logits / temperature`; of equal logits the first is the answer.

    Args:
        logits_nk: as the classifier gives them, without a temperature.
        label_n: from 0 to k - 1.
        paths: of the images, as they are to be shown.

    Raises `InputError` where there is no image, and where logits are not finite.
    """
    _check(logits_nk, facts)
    answer_n = logits_nk.argmax(1)
    right_n = answer_n == label_n
    confidence_n = calibration.confidence(logits_nk, temperature)
    bins = calibration.reliability(confidence_n, right_n)
    untempered = calibration.reliability(calibration.confidence(logits_nk, 1), right_n)
    confusion_kk = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion_kk, (label_n, answer_n), 1)
    right = int(right_n.sum())
    low, high = wilson_interval(right, len(right_n))
    surest = [n for n in np.argsort(-confidence_n, kind="stable") if not right_n[n]]
    mistakes = [
        Mistake(
            path=_utf8(paths[n]),
            label=classes[label_n[n]],
            answer=classes[answer_n[n]],
            probability=float(confidence_n[n]),
        )
        for n in surest[:MOST_MISTAKES]
    ]
    return Evaluation(
        classifier=_utf8(facts.classifier),
        photos=_utf8(facts.photos),
        method=facts.method,
        seen=facts.seen,
        unreadable=[(_utf8(path), _utf8(reason)) for path, reason in facts.unreadable],
        classes=list(classes),
        count=len(right_n),
        temperature=float(temperature),
        accuracy=percent(right, len(right_n)),
        interval=Interval(low=low, high=high),
        per_class=_per_class(confusion_kk, classes),
        confusion=confusion_kk.tolist(),
        calibration_error=calibration.calibration_error(bins),
        calibration_error_untempered=calibration.calibration_error(untempered),
        reliability=bins,
        coverage=[calibration.covered(at, confidence_n, right_n) for at in THRESHOLDS],
        mistakes=mistakes,
    )


def _check(logits_nk: np.ndarray, facts: Facts) -> None:
    if not len(logits_nk):
        raise InputError(f"{facts.photos}: no image could be evaluated; give some that can be read")
    if bad := int((~np.isfinite(logits_nk)).any(1).sum()):
        raise InputError(
            f"{facts.classifier} gives no finite logits for {bad} of {_images(len(logits_nk))}: "
            "its parameters are damaged; restore it, or fit it anew"
        )


def _per_class(confusion_kk: np.ndarray, classes: Sequence[str]) -> list[ClassResult]:
    right_k = confusion_kk.diagonal().tolist()
    of_label_k, of_answer_k = confusion_kk.sum(1).tolist(), confusion_kk.sum(0).tolist()
    return [
        ClassResult(
            name=name,
            count=images,
            precision=percent(right, answers) if answers else None,
            recall=percent(right, images) if images else None,
        )
        for name, right, images, answers in zip(
            classes, right_k, of_label_k, of_answer_k, strict=True
        )
    ]


def _utf8(text: str) -> str:
    """Bytes of a file's name that are no UTF-8 as `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def summary(evaluation: Evaluation) -> str:
    """The lines for a terminal."""
    low, high = evaluation.interval.low, evaluation.interval.high
    lines = [
        f"{evaluation.classifier} ({evaluation.method}) on {evaluation.photos}",
        f"accuracy: {evaluation.accuracy:.2f} % of {_images(evaluation.count)} "
        f"(95 % interval {low:.2f} to {high:.2f} %)",
        f"calibration error: {evaluation.calibration_error:.2f} % with temperature "
        f"{evaluation.temperature:.3g}, {evaluation.calibration_error_untempered:.2f} % without",
    ]
    lowest = [of for of in evaluation.by_recall() if of.recall is not None and of.recall < 100]
    if lowest:
        lines.append("lowest recall:")
        lines += [
            f"  {of.recall:.2f} %  {of.name} ({_images(of.count)})" for of in lowest[:_MOST_LISTED]
        ]
    if pairs := evaluation.confusions()[:_MOST_LISTED]:
        lines.append("most frequent confusions:")
        lines += [f"  {pair.count}  {pair.label}, taken for {pair.answer}" for pair in pairs]
    if evaluation.unreadable:
        count = len(evaluation.unreadable)
        was = "was" if count == 1 else "were"
        lines.append(f"{_images(count)} could not be read and {was} left out")
    if evaluation.seen:
        lines.append(f"warning: {seen_warning(evaluation)}")
    return "\n".join(lines)


def seen_warning(evaluation: Evaluation) -> str:
    """Says that the classifier was fitted on some of the images, and what that means."""
    return (
        f"the classifier was fitted on {evaluation.seen} of these {_images(evaluation.count)}: "
        "do not expect this accuracy of new images"
    )


def _images(count: int) -> str:
    return counted(count, "image")


__all__ = [
    "Attention", "Bin", "ClassResult", "Confusion", "Covered", "Evaluation", "Facts", "Interval",
    "Mistake", "evaluate_probabilities", "expected_calibration_error", "seen_warning", "summary",
    "wilson_interval",
]  # fmt: skip
