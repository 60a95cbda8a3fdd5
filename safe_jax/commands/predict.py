"""`safe-jax predict`: images to classes, a row each."""

import argparse
import glob
import os
import pathlib
import sys
from typing import TYPE_CHECKING

from safe_jax.commands import arguments
from safe_jax.commands.answers import Answers, answer, failure
from safe_jax.data.folders import SUFFIXES
from safe_jax.runtime import disk, paths
from safe_jax.runtime.errors import InputError

if TYPE_CHECKING:
    from safe_jax.classifier.image_classifier import ImageClassifier
    from safe_jax.classifier.predict import Scored, Source

EXAMPLE = "  safe-jax predict pets photos/new/ --output answers.csv --threshold 0.5"


def main(argv: list[str]) -> int:
    """Predicts as the arguments say; returns the exit code."""
    args = _parse(argv)
    output = arguments.output_file(args.output, (".csv", ".jsonl")) if args.output else None
    inputs = [file for given in args.images for file in _files(given)]
    arguments.begin(args)
    import tqdm

    from safe_jax.classifier import artifact, predict

    classifier = artifact.load(arguments.on_disk(args.classifier))
    if args.classes:
        classifier = _among(classifier, args.classes, args.template)
    pictures = _Pictures(args.attention, classifier) if args.attention else None
    top = min(args.top, len(classifier.classes))
    scored = predict.score(
        classifier,
        (predict.Source(str(file), file) for file, _ in inputs),
        len(inputs),
        args.workers,
        with_attention=pictures is not None,
    )
    names = iter(name for _, name in inputs)
    bar = tqdm.tqdm(total=len(inputs), unit=" images", desc="predict", delay=2)
    with bar, Answers(output, top) as answers:
        for batch in scored:
            _add(answers, batch, classifier, top, args.threshold)
            for at, source in enumerate(batch.sources):
                name = next(names)
                if pictures and not batch.reasons[at]:
                    pictures.add(source, name, {k: maps[at] for k, maps in batch.attention.items()})
            bar.update(len(batch.sources))
    if output:
        print(f"answers: {output}")
    if answers.errors:
        raise InputError(
            f"{answers.errors} of {len(inputs)} images could not be read; "
            "the column error says why, and the others are classified"
        )
    return 0


# fmt: off
def _parse(argv: list[str]) -> argparse.Namespace:
    parser = arguments.parser(
        "predict",
        "Classifies images. Without --output the rows are printed: path,label,probability,error.",
        EXAMPLE,
    )
    add = parser.add_argument
    add("classifier", metavar="CLASSIFIER", help="a folder that safe-jax fit made")
    add("images", metavar="IMAGE", nargs="+", help="files, folders with all below them, or globs")
    add("--output", metavar="FILE", help="a .csv or .jsonl file")
    add("--top", type=arguments.at_least_one, metavar="N", default=1,
        help="how many classes are given, as label_2, probability_2 ... (default: %(default)s)")
    add("--threshold", type=arguments.fraction, metavar="P", default=0.0,
        help="below this probability the label is empty: unknown (default: %(default)s)")
    add("--attention", metavar="FOLDER",
        help="write each picture here, with the attention of both pools beside it")
    add("--classes", metavar="A,B,...", help="choose among these classes, not those fitted on")
    add("--template", action="append", metavar="TEXT",
        help="a prompt for --classes (default: the classifier's)")
    arguments.add_workers(parser)
    arguments.add_cache(parser)
    return parser.parse_args(argv)
# fmt: on


def _files(given: str) -> list[tuple[pathlib.Path, str]]:
    """The images that an argument names, each with a name for what is made of it.

    Raises `InputError` where there are none.
    """
    path = pathlib.Path(given).expanduser()
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if _is_image(file, path))
        if not found:
            raise InputError(f"{given}: no image is in this folder ({', '.join(SUFFIXES)})")
        return [(file, str(file.relative_to(path))) for file in found]
    if not path.exists() and glob.has_magic(given):
        found = sorted(filter(os.path.isfile, glob.glob(str(path), recursive=True)))
        if not found:
            raise InputError(f"{given}: no file fits this pattern")
        return [(pathlib.Path(file), pathlib.Path(file).name) for file in found]
    return [(path, path.name)]  # a file that is missing gets a row with the reason


def _is_image(file: pathlib.Path, below: pathlib.Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(below).parts)
    return file.suffix.lower() in SUFFIXES and not hidden and file.is_file()


def _among(classifier: "ImageClassifier", text: str, templates: list[str] | None):
    from safe_jax.data import prompts

    classes = [name.strip() for name in text.split(",")]
    if len(classes) < 2 or not all(classes) or len(set(classes)) < len(classes):
        raise InputError(f"--classes={text}: at least two different names are expected: a,b")
    if not (templates := templates or list(classifier.templates)):
        raise InputError("--classes: this classifier's prompts were written by hand: --template")
    spoken = [name.replace("_", " ") for name in classes]  # as in fitting
    return classifier.among(classes, prompts.fill(templates, spoken))


def _add(
    answers: Answers, batch: "Scored", classifier: "ImageClassifier", top: int, threshold: float
) -> None:
    probability_nk = batch.probabilities(classifier.temperature)
    for source, reason, probability_k in zip(
        batch.sources, batch.reasons, probability_nk, strict=True
    ):
        if reason:
            answers.add(failure(source.name, reason))
        else:
            answers.add(answer(source.name, probability_k, classifier.classes, top, threshold))


class _Pictures:
    """Pictures of attention in a folder, named as their images are."""

    def __init__(self, folder: str, classifier: "ImageClassifier"):
        self._folder = arguments.on_disk(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        disk.check_writable(self._folder)
        self._preprocessing = classifier.preprocessing
        self._taken: set[pathlib.Path] = set()
        if not classifier.has_tuned_pool:
            print("no pool was tuned: pictures show the original pool's attention", file=sys.stderr)

    def add(self, source: "Source", name: str, maps_hw: dict) -> None:
        import io

        from safe_jax.data import images
        from safe_jax.report import attention

        pixels = images.load(images.Crop(source.image), self._preprocessing, (1, 1))
        content = io.BytesIO()
        attention.picture(pixels, maps_hw).save(content, "JPEG", quality=90)
        file = self._file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        paths.write(file, content.getvalue(), durable=False)

    def _file(self, name: str) -> pathlib.Path:
        """A file that no other image of this command has: cat.png.jpg, cat.png-2.jpg and so on."""
        wanted = self._folder / name
        file, number = wanted.with_name(f"{wanted.name}.jpg"), 1
        while file in self._taken:
            number += 1
            file = wanted.with_name(f"{wanted.name}-{number}.jpg")
        self._taken.add(file)
        return file
