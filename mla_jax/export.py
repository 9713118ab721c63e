"""A trained run as one StableHLO file, which runs in a process that has only JAX.

    python -m mla_jax.export --run=runs/digits --to=digits.stablehlo
    python -m mla_jax.export --run=runs/digits --to=digits.stablehlo --batch=32

The weights and the run's own transform are inside; digits.stablehlo.json, beside it,
says how to call it.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from mla_jax.config.command_line import check_output, status_of
from mla_jax.config.help import create_parser
from mla_jax.runs import stablehlo
from mla_jax.runs.run import EPOCHS, open_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports one run; returns the exit status, 2 for bad input."""
    parser = create_parser("export", f"{__doc__}\n{stablehlo.__doc__}")
    parser.add_argument("--run", required=True, metavar="DIR", help="the --workdir of a training")
    parser.add_argument(
        "--to", required=True, metavar="FILE.stablehlo", help="replaced if it is there already"
    )
    parser.add_argument(
        "--batch",
        default=stablehlo.SYMBOLIC,
        metavar="N|symbolic",
        help="examples per call; symbolic: any number (default: %(default)s)",
    )
    parser.add_argument(
        "--epoch",
        default=EPOCHS[0],
        choices=EPOCHS,
        help="the epoch of the run's result, or the newest checkpoint (default: %(default)s)",
    )
    chosen = parser.parse_args(arguments)
    return status_of("mla_jax.export", lambda: _export(chosen))


def _export(chosen: argparse.Namespace) -> None:
    check_output(pathlib.Path(chosen.to), "--to", makes_folders=True)
    open_run(chosen.run).export(chosen.to, chosen.batch, chosen.epoch)
    print(f"{chosen.run} -> {chosen.to}")


if __name__ == "__main__":
    sys.exit(main())
