"""The command that converts weights, also as `tools/convert_torch_weights.py`."""

import argparse
import pathlib
import sys
from typing import get_args

from etils import epath

from safe_jax import backbones
from safe_jax.checkpoints import files, state_dict, trees, weights
from safe_jax.clip import convert as clip
from safe_jax.clip.config import Activation
from safe_jax.runtime import errors
from safe_jax.runtime.errors import InputError
from safe_jax.siglip import checkpoint
from safe_jax.siglip import convert as siglip


def convert_back(source: epath.PathLike, destination: epath.PathLike) -> None:
    """Reads an Orbax directory and writes a state dict. Raises `InputError`."""
    metadata = backbones.read_metadata(source)
    arrays = trees.flatten(weights.load(source, (metadata.family,)))
    files.write(destination, state_dict.to_torch(metadata.family, arrays, metadata.extras))


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Converts as the arguments say; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Converts a CLIP ResNet or a SigLIP from its checkpoint to weights, or back.",
        epilog=f"example: {prog or 'convert_torch_weights.py'} RN50.pt weights/RN50",
    )
    parser.add_argument(
        "source",
        help="a CLIP's state dict (.pt), OpenAI's TorchScript archive (RN50.pt), an open_clip "
        "checkpoint or .safetensors; or a SigLIP's folder as on the Hugging Face Hub; with "
        "--to-torch an Orbax directory",
    )
    parser.add_argument(
        "destination", help="an Orbax directory; with --to-torch a .pt or .safetensors file"
    )
    parser.add_argument("--to-torch", action="store_true", help="convert back")
    parser.add_argument(
        "--activation",
        choices=get_args(Activation),
        default="quick_gelu",
        help="of a CLIP's text tower, which a checkpoint does not record: OpenAI's models and "
        "open_clip's *-quickgelu use quick_gelu, open_clip's others gelu",
    )
    args = parser.parse_args(argv)
    is_folder = checkpoint.is_folder(pathlib.Path(args.source))
    try:
        if args.to_torch:
            convert_back(args.source, args.destination)
        elif is_folder:
            siglip.convert(pathlib.Path(args.source), args.destination)
        else:
            clip.convert(args.source, args.destination, args.activation)
    except (InputError, OSError) as error:
        line = errors.of_system(error) if isinstance(error, OSError) else error
        # In a single write: Orbax's threads may be logging at the same time.
        sys.stderr.write(f"error: {line}\n")
        return 1
    print(f"wrote {args.destination}")
    if not args.to_torch and not is_folder:
        print(f"text tower: {args.activation} is assumed; --activation chooses another")
    return 0


if __name__ == "__main__":
    sys.exit(main())
