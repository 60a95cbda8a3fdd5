"""Prepares a data set of TensorFlow Datasets (TFDS) so that `config.tfds` can read it.

    python tools/prepare_tfds.py oxford_iiit_pet DATA

TFDS downloads it, where its licence lets it, and writes it below DATA, the later config.data_root.
That needs TensorFlow, which reading does not: pip install 'safe_jax[tfds]'.
"""

import argparse
import sys

import tensorflow_datasets as tfds


def main(argv: list[str] | None = None) -> int:
    """Prepares what the arguments name; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python tools/prepare_tfds.py",
        description="Prepares a data set of TensorFlow Datasets so that config.tfds can read it.",
    )
    parser.add_argument("name", help="such as oxford_iiit_pet, or eurosat/rgb")
    parser.add_argument("data_root", metavar="DATA", help="what it is written below")
    args = parser.parse_args(argv)
    try:
        builder = tfds.builder(args.name, data_dir=args.data_root, file_format="array_record")
        builder.download_and_prepare()
    except ImportError as error:
        print(f"error: {error}; pip install 'safe_jax[tfds]'", file=sys.stderr)
        return 1
    except (tfds.core.DatasetNotFoundError, AssertionError, OSError) as error:
        # An assertion is how TFDS says that a licence wants a file downloaded by hand.
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"prepared {builder.data_dir}: --config.tfds={args.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
