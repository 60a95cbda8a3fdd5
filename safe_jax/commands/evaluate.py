"""`safe-jax evaluate`: how good a classifier is on labelled images."""

from safe_jax.commands import arguments
from safe_jax.runtime import paths
from safe_jax.runtime.errors import InputError, counted

EXAMPLE = "  safe-jax evaluate pets photos/test/ --output pets.html"


def main(argv: list[str]) -> int:
    """Evaluates as the arguments say; returns the exit code."""
    parser = arguments.parser(
        "evaluate",
        "Accuracy, per class and in all, calibration, and the surest mistakes. Of photos that are "
        "divided into train, val and test, those in test are looked at.",
        EXAMPLE,
    )
    add = parser.add_argument
    add("classifier", metavar="CLASSIFIER", help="a folder that safe-jax fit made")
    add("photos", metavar="PHOTOS", help="a folder with a folder for each class, a CSV file with "
        "path,label, or a split file (.json)")  # fmt: skip
    add("--image-dir", metavar="DIR", help="what the paths of a CSV or split file are under "
        "(default: the file's folder)")  # fmt: skip
    add("--output", metavar="FILE", help="a page (.html), or everything as .json")
    arguments.add_workers(parser)
    arguments.add_cache(parser)
    args = parser.parse_args(argv)
    output = arguments.output_file(args.output, (".html", ".json")) if args.output else None
    arguments.begin(args)
    from safe_jax.classifier import artifact, evaluation
    from safe_jax.data import photos
    from safe_jax.estimator import evaluate

    folder = arguments.on_disk(args.classifier)
    classifier = artifact.load(folder)
    image_dir = paths.parse(args.image_dir) if args.image_dir else None
    given = photos.read(paths.parse(args.photos), image_dir)
    found = evaluate.evaluate(classifier, paths.absolute(folder).name, given, args.workers)
    print(evaluation.summary(found))
    if output and output.suffix.lower() == ".json":
        paths.write(output, (found.model_dump_json(indent=2) + "\n").encode())
    elif output:
        from safe_jax.report import evaluation as page

        paths.write(output, page.render(found).encode())
    if output:
        print(f"evaluation: {output}")
    if found.unreadable:
        unread = counted(len(found.unreadable), "image")
        raise InputError(f"{unread} could not be read; the others count")
    return 0
