"""Evaluates a trained run again: any split, any subset of its modalities.

    python -m mla_jax.evaluate --run=runs/digits
    python -m mla_jax.evaluate --run=runs/digits --split=validation --modalities=image
    python -m mla_jax.evaluate --run=runs/digits --subsets
    python -m mla_jax.evaluate --run=runs/digits --corrupt=audio:snr=0

    python -m mla_jax.evaluate --run=runs/digits --features=features.npz

Every example is counted once, on all local devices.  --subsets gives the fused accuracy for
every subset of the modalities, over the examples that have all of the subset.  --corrupt takes
MODALITY:KIND=SEVERITY; several are applied one after the other: see docs/robustness.md.

--features writes, for the examples of the split: index, label, present: bool[N, M] (one column per
name in modalities), features/MODALITY: float32[N, D] (the heads' input), logits/MODALITY:
float32[N, C], classes: int32[N] (fused), class_names, and the weights of the fusion where the
method weighs modalities.  Rows of examples that lack a modality are NaN.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from mla_jax.config.command_line import check_output, status_of, write_whole
from mla_jax.config.help import create_parser
from mla_jax.data import corruptions
from mla_jax.data.dataset import Split
from mla_jax.errors import UserError, check_choice
from mla_jax.runs import representation
from mla_jax.runs.nulls import with_nulls
from mla_jax.runs.report import figures_table, subsets_table
from mla_jax.runs.run import EPOCHS, Run, open_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates as the command line says; returns the exit status, 2 for bad input."""
    parser = create_parser("evaluate", __doc__)
    parser.add_argument("--run", required=True, metavar="DIR", help="the --workdir of a training")
    parser.add_argument("--split", default="test", help="train, validation or test (default: test)")
    parser.add_argument(
        "--modalities", default="", metavar="A+B",
        help="those to use; the others count as missing (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--subsets", action="store_true", help="every subset of up to six modalities"
    )
    parser.add_argument(
        "--corrupt", action="append", metavar="NAME:KIND=X",
        help=f"corrupts one modality; kinds: {', '.join(corruptions.KINDS)} (may be repeated)",
    )  # fmt: skip
    parser.add_argument(
        "--epoch", default="chosen", choices=EPOCHS, help="which checkpoint (default: chosen)"
    )
    parser.add_argument(
        "--data_dir", default="", metavar="DIR",
        help="where prepared data is now (default: where the run found it)",
    )  # fmt: skip
    parser.add_argument(
        "--output", default="", metavar="FILE.json", help="writes the figures to this file too"
    )
    parser.add_argument(
        "--features", default="", metavar="FILE.npz", help="writes only the features, to this file"
    )
    chosen = parser.parse_args(arguments)
    return status_of("mla_jax.evaluate", lambda: _evaluate(chosen))


def _evaluate(chosen: argparse.Namespace) -> None:
    if chosen.features:
        return _features(chosen)
    output = pathlib.Path(chosen.output)
    if chosen.output:
        check_output(output)
    run = open_run(chosen.run)
    modalities = tuple(chosen.modalities.split("+")) if chosen.modalities else ()
    spoilt = f", with {' and '.join(chosen.corrupt)}" if chosen.corrupt else ""
    if chosen.subsets:
        if modalities:
            raise UserError("--subsets goes through all modalities: leave out --modalities")
        found = run.subsets(_split(run, chosen), chosen.epoch, chosen.data_dir)
        print(f"{run.config.method.name} on {run.data.name}, {chosen.epoch} epoch, {chosen.split}"
              f"{spoilt}:")  # fmt: skip
        print(subsets_table(found))
        return _write(output, found)
    found = run.evaluate(_split(run, chosen), modalities, chosen.epoch, chosen.data_dir)
    seen = f", seeing {' and '.join(modalities)}" if modalities else ""
    print(f"{run.config.method.name} on {run.data.name}, {chosen.epoch} epoch: "
          f"{found['examples']} {chosen.split} examples{seen}{spoilt}")  # fmt: skip
    print(figures_table(found))
    _write(output, found)


def _split(run: Run, chosen: argparse.Namespace) -> str | Split:
    """The name of the split, or the split with what ``--corrupt`` does to it."""
    wanted = [corruptions.parse(text) for text in chosen.corrupt or ()]
    for one in wanted:  # finds mistakes before the data is loaded
        corruptions.check(run.data, *one)
    if not wanted:
        return chosen.split
    check_choice(f"split of {run.data.name}", chosen.split, run.data.examples)
    split = run.dataset(chosen.data_dir).splits[chosen.split]
    for modality, kind, severity in wanted:
        split = corruptions.corrupted(split, run.data, modality, kind, severity)
    return split


def _features(chosen: argparse.Namespace) -> None:
    """``--features``."""
    path = pathlib.Path(chosen.features)
    for other in ("subsets", "output", "corrupt"):
        if getattr(chosen, other):
            raise UserError(f"--features is for the whole, unchanged split: leave out --{other}")
    check_choice("ending of --features", path.suffix, (".npz",))
    check_output(path, "--features")
    run = open_run(chosen.run)
    where = chosen.split, chosen.modalities, chosen.epoch, chosen.data_dir
    found = representation.features(run, *where)
    write_whole(path, representation.to_npz(found, run.modalities))
    D = next(iter(found.features.values())).shape[1]
    print(f"{run.config.method.name} on {run.data.name}, {chosen.epoch} epoch: "
          f"{len(found.label)} {chosen.split} examples, {D} features of each of "
          f"{', '.join(found.features)}: {path}")  # fmt: skip


def _write(output: pathlib.Path, found: dict[str, Any]) -> None:
    """Writes the figures as JSON, if a file is named."""
    if output.name:
        content = json.dumps(with_nulls(found), allow_nan=False)
        write_whole(output, (content + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
