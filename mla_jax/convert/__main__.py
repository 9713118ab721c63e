"""The command line of ``mla_jax.convert``."""

import argparse
import sys
from collections.abc import Sequence

import mla_jax.convert
from mla_jax.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts one checkpoint; returns the exit status, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m mla_jax.convert", description=__doc__)
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="PATH",
        help="a .pth or .safetensors file, or a converted directory",
    )
    parser.add_argument(
        "--to",
        dest="target",
        required=True,
        metavar="PATH",
        help="a directory if --from is a file; a .pth or .safetensors file if it is a directory",
    )
    parser.add_argument(
        "--modalities",
        default="",
        metavar="A+B",
        help="our names for the encoders, in the reference's order (default: audio+visual); one "
        "name for a lone ResNet-18",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out tensors whose names match, as 'fc.*' for torchvision's classifier",
    )
    parser.add_argument(
        "--average_channels",
        action="store_true",
        help="average a lone ResNet-18's 3 input channels into 1, for spectrograms",
    )
    chosen = parser.parse_args(arguments)
    modalities = tuple(filter(None, chosen.modalities.split("+")))
    try:
        count = mla_jax.convert.convert(
            chosen.source, chosen.target, modalities, chosen.ignore, chosen.average_channels
        )
    except UserError as error:
        print(f"mla_jax.convert: {error}", file=sys.stderr)
        return 2
    print(f"{count} tensors: {chosen.source} -> {chosen.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
