"""A classifier on labelled images: every figure of `classifier.evaluation`, and its mistakes.

Axes: n images, k classes.
"""

import base64
import concurrent.futures
import io
import os

import numpy as np
import PIL.Image
import tqdm

from safe_jax.classifier import evaluation, predict
from safe_jax.classifier.evaluation import Attention, Evaluation, Facts
from safe_jax.classifier.image_classifier import ImageClassifier
from safe_jax.classifier.predict import Source
from safe_jax.data import images, photos
from safe_jax.data.photos import Photos
from safe_jax.data.records import Record
from safe_jax.methods.catalogue import METHODS
from safe_jax.runtime import schema
from safe_jax.runtime.errors import InputError, counted, listing


def evaluate(
    classifier: ImageClassifier, name: str, given: Photos, workers: int | None = None
) -> Evaluation:
    """Classifies labelled images; those of `test`, where they are divided.

    Args:
        name: what the classifier is called.

    Raises `InputError` for classes that the classifier does not know, and where no image can be
    read.
    """
    part, records = photos.to_evaluate(given)
    label_of = _labels(classifier, given)
    sources = [Source(record.path, given.image_dir / record.path) for record in records]
    reasons, logits = [], []
    with tqdm.tqdm(total=len(records), unit=" images", desc="evaluate", delay=2) as bar:
        for batch in predict.score(classifier, sources, len(sources), workers):
            reasons += batch.reasons
            logits.append(batch.logits_nk)
            bar.update(len(batch.sources))
    kept = [n for n, reason in enumerate(reasons) if not reason]
    facts = Facts(
        name,
        given.name if part == "all" else f"{given.name}, {part}",
        METHODS[classifier.classifier.name].label,
        _count_seen(classifier, [sources[n] for n in kept], workers),
        [(r.path, why) for r, why in zip(records, reasons, strict=True) if why],
    )
    found = evaluation.evaluate_probabilities(
        np.concatenate([np.zeros((0, len(classifier.classes)), np.float32), *logits])[kept],
        np.array([label_of[records[n].label] for n in kept], int),
        [records[n].path for n in kept],
        classifier.classes,
        classifier.temperature,
        facts,
    )
    by_path = {record.path: record for record in records}
    return _with_looks(found, classifier, given, by_path)


def _labels(classifier: ImageClassifier, given: Photos) -> dict[int, int]:
    """The classifier's label of each label of the photos, by name; spaces may be underscores."""
    number_of = {name.replace("_", " "): n for n, name in enumerate(classifier.classes)}
    spoken = [name.replace("_", " ") for name in given.classes]
    if strange := [name for name in spoken if name not in number_of]:
        unknown = counted(len(strange), "class")
        raise InputError(
            f"{given.name} has {unknown} that the classifier was not fitted on "
            f"(it knows {', '.join(classifier.classes[:10])}"
            f"{', ...' if len(classifier.classes) > 10 else ''}):" + listing(strange)
        )
    return {label: number_of[name] for label, name in enumerate(spoken)}


def _count_seen(classifier: ImageClassifier, sources: list[Source], workers: int | None) -> int:
    """How many of the images the classifier was tuned or chosen on, by the bytes of their files."""
    seen = set(classifier.making.seen)
    if not seen:
        return 0
    with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        return sum(d in seen for d in pool.map(lambda source: photos.digest(source.image), sources))


def _with_looks(
    found: Evaluation, classifier: ImageClassifier, given: Photos, by_path: dict[str, Record]
) -> Evaluation:
    """The same with pictures of the surest mistakes, and the attention of both pools."""
    sources = [
        Source(mistake.path, given.image_dir / mistake.path)
        for mistake in found.mistakes
        if mistake.path in by_path  # a name that is no UTF-8 is shown otherwise
    ]
    if len(sources) < len(found.mistakes) or not sources:
        return found
    pictures: list[str | None] = []
    attention: list[Attention | None] = []
    # In batches as wide as those before, for which the trunk is compiled already.
    for batch in predict.score(classifier, sources, len(by_path), with_attention=True):
        for at, source in enumerate(batch.sources):
            pixels = images.load(images.Crop(source.image), classifier.preprocessing, (1, 1))
            jpeg = io.BytesIO()
            PIL.Image.fromarray(pixels).save(jpeg, "JPEG", quality=90)
            encoded = base64.b64encode(jpeg.getvalue()).decode()
            pictures.append(f"data:image/jpeg;base64,{encoded}")
            maps = {name: x[at].round(4).tolist() for name, x in batch.attention.items()}
            attention.append(
                schema.check(Attention, maps, "attention.") if "tuned" in maps else None
            )
    return found.with_looks(pictures, attention)
