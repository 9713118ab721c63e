"""Trains methods, and variants of them, with several seeds, and puts them in one honest table.

    python -m mla_jax.compare --config=configs/digits.py --methods=all --seeds=0,1,2
    python -m mla_jax.compare --config=configs/digits.py \\
        --methods=mla,mla:fidelity=released,mla:projection.enabled=false+fusion=fixed

An entry of --methods is a method, NAME, or a variant of one, NAME:field=value+field=value.  The
fields are the switches of that method (those of --config.method.*) and its fidelity.  `all` stands
for every method that is not about missing modalities.  Each entry is a row under its own label.

Every row gets the same data, encoders, optimiser, epochs and protocol.  DI-MML has a second stage,
which the caption names.  ``unimodal`` trains each modality alone: that is the ceiling for the
modality's accuracy in the other rows.  Writes comparison.md, comparison.png and comparison.json
into --workdir, and each run beside them; runs that are finished are not repeated.

Under missing modalities, method by rate:

    python -m mla_jax.compare --config=configs/mfeat.py --methods=table2 --missing=0,0.3,0.5,0.7

--missing gives the rates of config.missing, in all splits; with --config.missing.train=0 the
methods are trained once, on complete data, and tested at every rate.  `table2` is the twelve
methods of the MLA paper's Table 2.
"""

import datetime
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from mla_jax import distributed, train
from mla_jax.compare import statistics, sweep, sweep_table, table
from mla_jax.compare.variants import Part, Variant, parse_variants, parts_of
from mla_jax.config import command_line, fields
from mla_jax.errors import UserError, space_watched
from mla_jax.runs import report
from mla_jax.runs.workdir import ELSEWHERE_EMPTY, Workdir, foreign

METHODS = ("unimodal", "concat", "late_fusion", "mla")
ENDING = "-compare"
"""Of the default folder's name."""


def main() -> None:
    """The comparison of the command line."""
    F = flags.FLAGS
    workdir = Workdir(command_line.workdir(ENDING)).path
    default = ["table2"] if F.missing else METHODS
    variants, seeds = (
        parse_variants(default if F.methods is None else F.methods),
        parse_seeds(F.seeds),
    )
    if F.missing:
        return compare_missing(variants, seeds, sweep.parse_rates(F.missing), workdir)
    plan = {v.label: parts_of(v) for v in variants}  # mistakes come out before the first run
    epochs = next(iter(plan.values()))[0].config.epochs
    check_folders([part for parts in plan.values() for part in parts], seeds, workdir)
    results = [(v, train_row(plan.pop(v.label), seeds, workdir)) for v in variants]
    if distributed.is_main():
        runs = {v.label: [workdir / v.folder / f"seed{seed}" for seed in seeds] for v in variants}
        found = {
            **origin(seeds),
            "rows": table.rows(results),
            "statistics": statistics.of_runs(runs),
            "about": table.about(results[0][1][0][0], epochs),
        }
        with space_watched(workdir):
            print("\n" + table.write(workdir, found))
        print(f"\n{workdir}: comparison.md, comparison.png, comparison.json")


def compare_missing(
    variants: Sequence[Variant], seeds: list[int], rates: list[float], workdir: pathlib.Path
) -> None:
    """The comparison of the command line at every rate of missing modalities."""
    plan = {v.label: sweep.parts_at(v, rates) for v in variants}
    check_folders([part for parts in plan.values() for part in parts.values()], seeds, workdir)
    rows, first = [], next(iter(plan[variants[0].label].values()))
    for variant in variants:  # the programs of a row end with it
        rows.append(sweep.train_row(variant, plan.pop(variant.label), rates, seeds, workdir))
    if distributed.is_main():
        result = Workdir(workdir / first.folder / f"seed{seeds[0]}").result()
        found = {
            **origin(seeds),
            "missing": result["missing"],
            "trained_once": sweep.trained_once(),
            "rows": rows,
            "about": table.about(result, first.config.epochs),
        }
        with space_watched(workdir):
            print("\n" + sweep_table.write(workdir, found))
        print(f"\n{workdir}: comparison.md, comparison.png, comparison.json")


def origin(seeds: list[int]) -> dict[str, Any]:
    """The command, the day and the seeds."""
    command = shlex.join(["python", "-m", "mla_jax.compare", *sys.argv[1:]])
    return {"command": command, "date": datetime.date.today().isoformat(), "seeds": seeds}


def parse_seeds(texts: Sequence[str]) -> list[int]:
    """The seeds of ``--seeds``; ``UserError`` unless they are different integers."""
    try:
        seeds = [int(text) for text in texts]
    except ValueError as error:
        raise UserError(f"--seeds={','.join(texts)} must be integers, as in 0,1,2") from error
    if not all(0 <= seed < 2**31 for seed in seeds):
        raise UserError(f"--seeds={','.join(texts)} must be at least 0 and at most {2**31 - 1}")
    if len(set(seeds)) != len(seeds) or not seeds:
        raise UserError(f"--seeds={','.join(texts)} must be different integers")
    if "seed" in command_line.config_overrides():
        raise UserError("--config.seed and --seeds both choose the seeds: use --seeds alone")
    return seeds


def check_folders(parts: Sequence[Part], seeds: Sequence[int], workdir: pathlib.Path) -> None:
    """Raises ``UserError`` unless the table and every run can lie in ``workdir``."""
    Workdir(workdir).check_path()
    rows = {path.parent.name for path in workdir.glob("*/seed*")}
    if name := foreign(workdir, {*table.FILES, *rows, *(part.folder for part in parts)}):
        raise UserError(f"--workdir={workdir} holds {name} and no comparison: {ELSEWHERE_EMPTY}")
    for name in table.FILES:
        command_line.check_output(workdir / name, "--workdir", makes_folders=True)
    for part in parts:
        for seed in seeds:
            part.config.seed = seed
            config = fields.resolve(part.config)
            identity = {"config": fields.to_json(config), "data": part.fingerprint}
            Workdir(workdir / part.folder / f"seed{seed}").check(identity)


def train_row(
    parts: Sequence[Part], seeds: Sequence[int], workdir: pathlib.Path
) -> list[list[dict]]:
    """Trains what is not finished yet; the results of one row, ``[seed][part]``."""
    results: list[list[dict]] = [[] for _ in seeds]
    for folder, config, program, _ in parts:
        for found, seed in zip(results, seeds, strict=True):
            config.seed = seed
            path = workdir / folder / f"seed{seed}"
            result = train.train(config, path, program, say=lambda line: None).result
            found.append(result)
            if distributed.is_main():
                figures = report.accuracies(result["test"])
                spent = table.seconds(result)
                print(f"{folder} seed {seed}: test {figures}; {spent:.1f} s", flush=True)
    return results


if __name__ == "__main__":
    command_line.define_flags()
    flags.DEFINE_list(
        "methods",
        None,
        "methods, and variants as NAME:field=value+field=value; 'all': every method that is not "
        "about missing modalities; 'table2': those of the MLA paper's Table 2, the default with "
        f"--missing (default: {','.join(METHODS)})",
    )
    flags.DEFINE_list(
        "missing", [], "rates of missing modalities, as 0,0.3,0.5; see config.missing"
    )
    flags.DEFINE_list("seeds", ["0", "1", "2"], "every row has one run per seed")
    command_line.run_command(main, ENDING)
