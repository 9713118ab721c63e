"""Trains several methods with several seeds in one process and puts them in one honest table.

    python -m mla_jax.compare --config=configs/digits.py --methods=all --seeds=0,1,2

Every method gets the same data, encoders, optimiser, epochs and protocol (DI-MML has a second
stage, which the caption names).  ``unimodal`` trains
each modality alone: the ceiling that the others' unimodal accuracies are held against.  Writes
table.md, table.png and table.json into --workdir, and each run beside them; runs
that are finished are not repeated.
"""

import datetime
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict

from mla_jax import distributed, methods, train
from mla_jax.compare import table
from mla_jax.config import command_line, fields, files
from mla_jax.datasets import load_dataset
from mla_jax.errors import UserError
from mla_jax.program import Program, build_program
from mla_jax.runs import report


def main() -> None:
    """The comparison of the command line."""
    F = flags.FLAGS
    workdir = pathlib.Path(F.workdir or f"runs/{command_line.config_name()}-compare")
    names = list(dict.fromkeys(methods.REGISTRY if F.methods == ["all"] else F.methods))
    if not names:
        raise UserError("--methods names none: give some, as in concat,mla, or 'all'")
    try:
        seeds = [int(seed) for seed in F.seeds]
    except ValueError as error:
        raise UserError(f"--seeds={','.join(F.seeds)} must be integers, as in 0,1,2") from error
    if len(set(seeds)) != len(seeds) or not seeds:
        raise UserError(f"--seeds={','.join(F.seeds)} must be different integers")
    if "seed" in command_line.config_overrides():
        raise UserError("--config.seed and --seeds both choose the seeds: use --seeds alone")
    parts = {name: parts_of(name) for name in names}  # mistakes come out before the first run
    results = [compare_method(parts.pop(name), seeds, workdir) for name in names]
    if distributed.is_main():
        found = {
            "command": shlex.join(["python", "-m", "mla_jax.compare", *sys.argv[1:]]),
            "date": datetime.date.today().isoformat(),
            "seeds": seeds,
            "rows": table.rows(dict(zip(names, results, strict=True))),
            "about": table.about(results[0][0][0]),
        }
        print("\n" + table.write(workdir, found))


class Part(NamedTuple):
    """The runs of a method, or of one modality of a method that trains one at a time."""

    folder: str
    config: ConfigDict
    program: Program


def compare_method(
    parts: Sequence[Part], seeds: Sequence[int], workdir: pathlib.Path
) -> list[list[dict]]:
    """The results of one method: ``[seed][part]``."""
    results: list[list[dict]] = [[] for _ in seeds]
    for part, config, program in parts:
        for row, seed in zip(results, seeds, strict=True):
            config.seed = seed
            path = workdir / part / f"seed{seed}"
            result = train.train(config, path, program, say=lambda line: None).result
            row.append(result)
            if distributed.is_main():
                figures = report.accuracies(result["test"])
                spent = table.seconds(result)
                print(f"{part} seed {seed}: test {figures}; {spent:.1f} s", flush=True)
    return results


def parts_of(name: str) -> list[Part]:
    """One part, or one a modality (``methods.trains_one_modality``); nothing is compiled yet."""
    configs = {name: method_config(name)}
    if methods.trains_one_modality(name):
        modalities = fields.resolve(configs[name]).modalities
        configs = {f"{name}-{m}": method_config(name, modalities=m) for m in modalities}
    parts = []
    for folder, config in configs.items():
        resolved = fields.resolve(config)
        dataset = load_dataset(resolved.dataset, resolved.modalities)
        parts.append(Part(folder, config, build_program(resolved, dataset)))
    return parts


def method_config(name: str, **arguments: str) -> ConfigDict:
    """The configuration of the command line, for another method.

    ``--config.method.x`` applies to the methods that have a switch x, and a fidelity to those that
    know it; the others stay at ``paper``.
    """
    filename = command_line.config_filename()
    chosen = {"method": name, "fidelity": "paper", **arguments}
    bare = files.load_config(filename, arguments=chosen)
    known = fields.flatten(bare.to_dict())
    overrides = {
        field: value
        for field, value in command_line.config_overrides().items()
        if (field in known or not field.startswith("method.")) and field not in arguments
    }
    fidelity = overrides.pop("method.fidelity", flags.FLAGS.config.method.fidelity)
    if fidelity in methods.get(name).FIDELITY:
        overrides["method.fidelity"] = fidelity
    overrides.setdefault("checkpoint.every_epochs", 0)  # short runs: only their end is kept
    return files.load_config(filename, overrides, chosen)


if __name__ == "__main__":
    command_line.define_flags()
    flags.DEFINE_list("methods", ["unimodal", "concat", "late_fusion", "mla"], "methods, or 'all'")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "seeds, one run of every method each")
    command_line.run_command(main)
