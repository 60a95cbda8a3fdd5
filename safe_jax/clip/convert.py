"""The command that converts weights: `tools/convert_torch_weights.py`, and `download` uses it."""

import argparse
import sys

from safe_jax.clip import torch_files
from safe_jax.runtime.errors import InputError


def main(argv: list[str] | None = None) -> int:
    """Converts as told by the arguments; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Converts a CLIP ResNet from a torch checkpoint to an Orbax directory, or back."
    )
    parser.add_argument(
        "source",
        help="a state dict (.pt), OpenAI's TorchScript archive (RN50.pt), an open_clip checkpoint "
        "or .safetensors; with --to-torch an Orbax directory",
    )
    parser.add_argument(
        "destination", help="an Orbax directory; with --to-torch a .pt or .safetensors file"
    )
    parser.add_argument("--to-torch", action="store_true", help="convert back")
    parser.add_argument(
        "--activation",
        choices=("quick_gelu", "gelu"),
        default="quick_gelu",
        help="of the text tower; a checkpoint does not tell. OpenAI's and open_clip's "
        "*-quickgelu models use quick_gelu, open_clip's others gelu",
    )
    args = parser.parse_args(argv)
    try:
        if args.to_torch:
            torch_files.convert_back(args.source, args.destination)
        else:
            torch_files.convert(args.source, args.destination, args.activation)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {args.destination}")
    if not args.to_torch:
        print(f"its text tower is taken to use {args.activation}; if it does not: --activation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
