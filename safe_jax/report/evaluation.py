"""The page of a classifier's evaluation: every text and number as the template shows it."""

import base64
import binascii
from collections.abc import Sequence
from typing import NamedTuple

from safe_jax.classifier.evaluation import ClassResult, Evaluation, Mistake, seen_warning
from safe_jax.experiment.results import Answer
from safe_jax.report import templates
from safe_jax.report.gallery import Card
from safe_jax.report.plots import SERIES, Figure, Line, draw
from safe_jax.report.summary import TableRow
from safe_jax.runtime.errors import counted

_MOST_CLASSES = 30  # of a confusion matrix that can be read, and in a table that is not folded
_MOST_PAIRS = 30
_STRONGEST = 50  # per cent of colour in a cell of the matrix: text on it stays readable
_CONFIDENCE = "confidence (%)"


class Cell(NamedTuple):
    """A cell of the confusion matrix; `strength` of its colour is in per cent."""

    text: str
    strength: int
    is_right: bool


def render(evaluation: Evaluation) -> str:
    """The page, one HTML file that needs no other: the same bytes for the same evaluation."""
    classes = [_class_row(one) for one in evaluation.by_recall()]
    is_matrix = len(evaluation.classes) <= _MOST_CLASSES
    return templates.render(
        "evaluation",
        title=f"{evaluation.classifier} on {evaluation.photos}",
        method=evaluation.method,
        images=counted(evaluation.count, "labelled image"),
        class_count=_counted_classes(evaluation),
        warning=seen_warning(evaluation) if evaluation.seen else None,
        tiles=_tiles(evaluation),
        temperature=f"{evaluation.temperature:.3g}",
        figures=[_reliability(evaluation), _coverage(evaluation)],
        bins=_bin_rows(evaluation),
        thresholds=[
            (f"{100 * one.threshold:.0f}", [_percent(one.coverage), _percent(one.accuracy)])
            for one in evaluation.coverage
        ],
        classes=classes[:_MOST_CLASSES],
        more_classes=classes[_MOST_CLASSES:],
        names=evaluation.classes,
        confusion=_confusion(evaluation) if is_matrix else [],
        pairs=[
            (pair.label, [pair.answer, str(pair.count)])
            for pair in evaluation.confusions()[:_MOST_PAIRS]
        ],
        cards=[_card(evaluation.method, mistake) for mistake in evaluation.mistakes],
        has_attention=any(mistake.attention for mistake in evaluation.mistakes),
        unreadable=evaluation.unreadable,
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _counted_classes(evaluation: Evaluation) -> str:
    count = len(evaluation.classes)
    return "one class" if count == 1 else f"{count} classes"


def _tiles(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    """Of each tile the name, the value, its unit, and a note."""
    interval, unread = evaluation.interval, len(evaluation.unreadable)
    error, untempered = evaluation.calibration_error, evaluation.calibration_error_untempered
    return [
        (
            "accuracy",
            _percent(evaluation.accuracy),
            "%",
            f"95 % interval {interval.low:.2f} to {interval.high:.2f} %",
        ),
        (
            "calibration error",
            _percent(error),
            "%",
            f"with temperature {evaluation.temperature:.3g}",
        ),
        ("calibration error", _percent(untempered), "%", "without temperature"),
        (
            "evaluated",
            str(evaluation.count),
            "image" if evaluation.count == 1 else "images",
            f"{unread} more could not be read" if unread else "all could be read",
        ),
    ]


def _reliability(evaluation: Evaluation) -> Figure:
    filled = [
        (one.confidence, one.accuracy, 100 * one.count / evaluation.count)
        for one in evaluation.reliability
        if one.confidence is not None and one.accuracy is not None
    ]
    confidence, accuracy, part = zip(*filled, strict=True)
    lines = [
        Line("as right as sure", [0, 100], [0, 100], ink="muted", dashed=True),
        Line("accuracy of the bin", confidence, accuracy, ink=SERIES[0], marker="o"),
        Line("part of the images", confidence, part, ink=SERIES[1], marker="s"),
    ]
    alt = "Accuracy against confidence, and the part of the images; the table has the numbers."
    return draw("reliability", "Accuracy (%) by confidence", _CONFIDENCE, alt, lines)


def _coverage(evaluation: Evaluation) -> Figure:
    coverage = [(100 * one.threshold, one.coverage) for one in evaluation.coverage]
    accuracy = [
        (100 * one.threshold, one.accuracy)
        for one in evaluation.coverage
        if one.accuracy is not None
    ]
    lines = [
        Line("accuracy", *_columns(accuracy), ink=SERIES[0], marker="o"),
        Line("coverage", *_columns(coverage), ink=SERIES[1], marker="s"),
    ]
    alt = "Accuracy and coverage against the threshold; the table has the numbers."
    title = "Accuracy and coverage (%) above a threshold"
    return draw("coverage", title, f"threshold: least {_CONFIDENCE}", alt, lines)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _bin_rows(evaluation: Evaluation) -> list[TableRow]:
    width = 100 / len(evaluation.reliability)
    return [
        (
            f"{number * width:.1f} to {(number + 1) * width:.1f}",
            [_percent(one.confidence), _percent(one.accuracy), str(one.count)],
        )
        for number, one in enumerate(evaluation.reliability)
    ]


def _class_row(of: ClassResult) -> TableRow:
    return of.name, [_percent(of.recall), _percent(of.precision), str(of.count)]


def _confusion(evaluation: Evaluation) -> list[tuple[str, list[Cell]]]:
    """The matrix by label. Away from the diagonal a cell without an image stays empty."""
    return [
        (
            name,
            [
                Cell(
                    text=str(count) if count or answer == label else "",
                    strength=round(_STRONGEST * count / max(1, sum(counts))),
                    is_right=answer == label,
                )
                for answer, count in enumerate(counts)
            ],
        )
        for label, (name, counts) in enumerate(
            zip(evaluation.classes, evaluation.confusion, strict=True)
        )
    ]


def _card(method: str, mistake: Mistake) -> Card:
    picture = None
    if mistake.picture:
        try:
            picture = base64.b64decode(mistake.picture.partition(",")[2])
        except binascii.Error:
            picture = None  # as a picture that cannot be read
    answer = Answer.model_validate({"class": mistake.answer, "probability": mistake.probability})
    predictions = [(method, answer)]
    return Card.of(mistake.label, picture, mistake.attention, predictions, mistake.path)
