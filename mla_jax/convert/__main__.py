"""Converts weights between PyTorch's files, our directories and trained runs.

    python -m mla_jax.convert --from=resnet18.pth --to=weights --modalities=image --ignore='fc.*'
    python -m mla_jax.convert --from=weights --to=weights.pth
    python -m mla_jax.convert --from=runs/digits --to=weights.safetensors

docs/encoders.md lists the files that it can read.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import mla_jax.convert
from mla_jax.config.command_line import check_output, status_of
from mla_jax.config.help import create_parser
from mla_jax.convert.files import MANIFEST, VARIABLES
from mla_jax.errors import UserError
from mla_jax.runs.run import EPOCHS, is_run, open_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts one checkpoint; returns the exit status, 2 for bad input."""
    parser = create_parser("convert", __doc__)
    parser.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="PATH",
        help="a .pth, .safetensors or M3AE .pkl file, a converted directory, or a run",
    )
    parser.add_argument(
        "--to",
        dest="target",
        required=True,
        metavar="PATH",
        help="a directory if --from is a file; a .pth or .safetensors file if it is a directory; "
        "any of them if it is a run",
    )
    parser.add_argument(
        "--encoder",
        default="",
        metavar="MODALITY",
        help="of a run: only this encoder, to .pth in the names of torchvision's resnet18, M3AE "
        "or CAV-MAE (default: the whole model)",
    )
    parser.add_argument(
        "--epoch",
        default="",
        choices=("", *EPOCHS),
        metavar="|".join(EPOCHS),
        help="of a run: the epoch of its result, or its newest checkpoint (default: chosen)",
    )
    parser.add_argument(
        "--modalities",
        default="",
        metavar="A+B",
        help="our names for the encoders, in the reference's order (default: audio+visual, "
        "text+image or audio+image+text); one name for a single ResNet-18; an empty name leaves an "
        "encoder of a single M3AE or CAV-MAE out, as in +image",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out tensors whose names match: 'fc.*' for torchvision's classifier; may be "
        "given several times (default: none)",
    )
    parser.add_argument(
        "--average_channels",
        action="store_true",
        help="average a single ResNet-18's 3 input channels into 1, for spectrograms",
    )
    parser.add_argument(
        "--convention",
        default="",
        metavar="NAME",
        help="how the code that trained M3AE's or CAV-MAE's weights treats its input: pretraining "
        "or released (default: pretraining, but released for MLA's PyTorch files of M3AE)",
    )
    chosen = parser.parse_args(arguments)
    return status_of("mla_jax.convert", lambda: _convert(chosen))


def _convert(chosen: argparse.Namespace) -> None:
    target = pathlib.Path(chosen.target)
    file = target if target.suffix else target / MANIFEST
    check_output(file, "--to", makes_folders=True)
    if target.name in (MANIFEST, VARIABLES) and target.parent == pathlib.Path(chosen.source):
        raise UserError(f"--to={target} is a file of --from={chosen.source}: name another")
    modalities = tuple(chosen.modalities.split("+")) if chosen.modalities else ()
    for_files = (modalities, chosen.ignore, chosen.average_channels, chosen.convention)
    if is_run(chosen.source):
        if any(for_files):
            raise UserError(f"{chosen.source} is a run: it takes only --encoder and --epoch")
        run = open_run(chosen.source)
        count = run.save_weights(chosen.target, chosen.encoder, chosen.epoch or EPOCHS[0])
    else:
        if chosen.encoder or chosen.epoch:
            raise UserError(
                f"{chosen.source} is not a run: leave out --encoder and --epoch, which are for runs"
            )
        count = mla_jax.convert.convert(chosen.source, chosen.target, *for_files)
    print(f"{count} tensors: {chosen.source} -> {chosen.target}")


if __name__ == "__main__":
    sys.exit(main())
