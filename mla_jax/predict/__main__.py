"""Predicts with a trained run on new examples.

    python -m mla_jax.predict --run=runs/digits --input=new.npz --output=predictions.csv
    python -m mla_jax.predict --run=runs/cats --input=new.csv --output=predictions.jsonl

``--input`` is one of

* ``FILE.npz``: one array per modality, for any of the run's; optional ``id``, ``label`` (numbers or
  class names) and ``present`` (booleans, one column per modality of the file, in the order of the
  run's modalities);
* ``FILE.csv``: one line per example with paths of raw media, as for the data set ``folder``
  (docs/datasets.md); the columns ``label`` and ``split`` may be missing, and a label may be empty;
* a folder that ``python -m mla_jax.prepare`` wrote.

``--output`` ends in ``.csv`` (class and probability, fused and per modality, and the weights),
``.jsonl`` (the same and all probabilities) or ``.npz`` (all arrays).  If the input has labels,
the accuracy is printed.
"""

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Sequence

from mla_jax.config.command_line import check_output, status_of, write_whole
from mla_jax.config.help import create_parser
from mla_jax.data.cores import usable_cores
from mla_jax.errors import UserError, check_choice
from mla_jax.predict.read import read_examples
from mla_jax.predict.write import WRITERS, accuracies
from mla_jax.runs.run import EPOCHS, open_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Predicts as the command line says; returns the exit status, 2 for bad input."""
    parser = create_parser("predict", __doc__)
    parser.add_argument("--run", required=True, metavar="DIR", help="the --workdir of a training")
    parser.add_argument("--input", required=True, metavar="PATH", help=".npz, .csv or folder")
    parser.add_argument("--output", required=True, metavar="FILE", help=".csv, .jsonl or .npz")
    parser.add_argument(
        "--epoch", default="chosen", choices=EPOCHS, help="which checkpoint (default: chosen)"
    )
    parser.add_argument(
        "--raw",
        default="",
        metavar="DIR",
        help="folder of a .csv's paths (default: its own)",
    )
    parser.add_argument(
        "--vocab", default="", metavar="FILE", help="the vocabulary, for a .csv with text"
    )
    parser.add_argument("--workers", type=int, default=usable_cores(), metavar="N",
                        help="processes that open raw media (default: one per core)")  # fmt: skip
    chosen = parser.parse_args(arguments)
    return status_of("mla_jax.predict", lambda: _predict(chosen))


def _predict(chosen: argparse.Namespace) -> None:
    output = pathlib.Path(chosen.output)
    check_choice("ending of --output", output.suffix, WRITERS)
    if output.exists() and pathlib.Path(chosen.input).exists() and output.samefile(chosen.input):
        raise UserError(f"--output={output} is the file of --input: name another")
    check_output(output)
    run = open_run(chosen.run)
    with tempfile.TemporaryDirectory() as scratch:
        examples = read_examples(run, chosen, pathlib.Path(scratch))
        found = run.predict(examples.split, epoch=chosen.epoch)
    write_whole(output, WRITERS[output.suffix](examples, found, run.modalities))
    print(f"{len(found.classes)} predictions: {output}")
    for line in accuracies(examples, found):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
