"""`safe-jax export`: a classifier as a file for ONNX Runtime, for JAX alone, or for torch."""

from safe_jax.commands import arguments

EXAMPLE = "  safe-jax export pets pets.onnx"
_SUFFIXES = (".onnx", ".stablehlo", ".pt", ".safetensors")


def main(argv: list[str]) -> int:
    """Exports as the arguments say; returns the exit code."""
    parser = arguments.parser(
        "export",
        "Writes a classifier as .onnx (for ONNX Runtime) or .stablehlo (for JAX without this "
        "package), from uint8 pixels to probabilities; or as .pt or .safetensors, the state dict "
        "of a CLIP with the tuned pool. The file is run on a few images and compared.",
        EXAMPLE,
    )
    add = parser.add_argument
    add("classifier", metavar="CLASSIFIER", help="a folder that safe-jax fit made")
    add("file", metavar="FILE", help="its suffix says what is written: " + ", ".join(_SUFFIXES))
    add("--tuned-pool", action="store_true", help="a state dict of the tuned pool by itself, "
        "though the classifier blends it with the original (alpha is not 1)")  # fmt: skip
    arguments.add_cache(parser)
    args = parser.parse_args(argv)
    file = arguments.output_file(args.file, _SUFFIXES)
    arguments.begin(args)
    from safe_jax.classifier import artifact, export

    classifier = artifact.load(arguments.on_disk(args.classifier))
    difference = export.export(classifier, file, args.tuned_pool)
    what = "probabilities"
    if file.suffix in (".pt", ".safetensors"):
        what = "at alpha 1 logits, as parts of the largest,"
    print(f"{file}: {what} differ from the classifier's by at most {difference:.1e}")
    return 0
