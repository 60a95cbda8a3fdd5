"""`safe-jax fit`: labelled images to a classifier."""

import argparse
import pathlib

from safe_jax.commands import arguments
from safe_jax.methods import catalogue
from safe_jax.runtime import disk, paths

EXAMPLE = "  safe-jax fit photos/ --weights RN50 --output pets"


def main(argv: list[str]) -> int:
    """Fits as the arguments say; returns the exit code."""
    args = _parse(argv)
    output = arguments.on_disk(args.output)
    _check_new(output)
    arguments.begin(args)
    from safe_jax.classifier import artifact
    from safe_jax.data import photos
    from safe_jax.estimator import fit

    given = {
        "weights": args.weights, "image_size": args.image_size, "method": args.method,
        "shots": args.shots, "seed": args.seed,
        "epochs": args.epochs, "learning_rates": args.learning_rates, "workers": args.workers,
        "cache_dir": args.cache_dir, "strict": args.strict,
    }  # fmt: skip
    if args.template:
        given["templates"] = tuple(args.template)
    settings = arguments.check(fit.FitSettings, given)
    image_dir = paths.parse(args.image_dir) if args.image_dir else None
    classifier = fit.fit(photos.read(paths.parse(args.photos), image_dir), settings)
    artifact.save(classifier, output)
    print(fit.summary(classifier))
    print(f"classifier: {output}")
    return 0


# fmt: off
def _parse(argv: list[str]) -> argparse.Namespace:
    parser = arguments.parser(
        "fit",
        "Tunes a classifier on labelled images, chooses what is open on validation images, and "
        "keeps it in a folder that needs nothing else.",
        EXAMPLE,
    )
    add = parser.add_argument
    add("photos", metavar="PHOTOS",
        help="a folder with a folder for each class (or those in train/ and val/), a CSV file with "
        "path,label, or a split file (.json)")
    add("--output", metavar="CLASSIFIER", required=True, help="the folder to make")
    add("--image-dir", metavar="DIR",
        help="what the paths of a CSV or split file are under (default: the file's folder)")
    add("--weights", default="RN50", metavar="NAME",
        help="RN50, RN101, RN50x4, RN50x16, RN50x64, small or another "
        "name of docs/backbones.md, or a directory of converted weights "
        "(default: %(default)s)")
    add("--image-size", type=int, default=0, metavar="N",
        help="pixels of a side; the positions of cells are interpolated (default: the weights')")
    add("--method", default="safe", choices=list(catalogue.METHODS), help="default: %(default)s")
    add("--shots", type=arguments.at_least_one, metavar="N",
        help="training images a class, and at most 4 to choose with (default: all)")
    add("--seed", type=int, default=1, help="of the draw and of the order (default: %(default)s)")
    add("--template", action="append", metavar="TEXT",
        help="a prompt, with {} for the class name; several are averaged "
        "(default: 'a photo of a {}.')")
    add("--epochs", type=arguments.at_least_one, metavar="N", help="default: the method's")
    add("--learning-rates", type=arguments.numbers, metavar="A,B,...", default=(),
        help="validation images choose one (default: 0.1, 1 and 10 times the method's)")
    add("--strict", action="store_true", help="an image that cannot be read is an error")
    arguments.add_workers(parser)
    arguments.add_cache(parser)
    return parser.parse_args(argv)
# fmt: on


def _check_new(output: pathlib.Path) -> None:
    from safe_jax.classifier import artifact

    artifact.check_new(output)
    disk.check_writable(output.absolute().parent)
