"""Trains methods, and variants of them, with several seeds, and writes one table of the results.

    python -m mla_jax.compare --config=configs/digits.py --methods=all --seeds=0,1,2
    python -m mla_jax.compare --config=configs/digits.py \\
        --methods=mla,mla:fidelity=released,mla:projection.enabled=false+fusion=fixed
    python -m mla_jax.compare --config=configs/digits.py --methods=concat,mla \\
        --vary=optimizer.learning_rate=0.02,0.05 --vary=method.fusion=entropy,fixed
    python -m mla_jax.compare --config=configs/digits.py --study=table3
    python -m mla_jax.compare --runs=runs/a,runs/b

An entry of --methods is a method, NAME, or a variant of one, NAME:field=value+field=value.  Its
fields are the switches of that method (those of --config.method.*) and its fidelity.  `all` means
every method that is not about missing modalities.  Each entry is one row of the table.

--vary=FIELD=a,b makes one row per value of a field of the configuration; several --vary make one
row per combination.  method.x varies the methods that have a switch x.  Values of a tuple are
separated by slashes, as in 0.5/0.5.  Rows that differ only at test time, for example in the fusion
of MLA, share one training if the last epoch is reported: the run is evaluated under each rule.

Every row gets the same data, encoders, optimiser, epochs and protocol.  DI-MML has a second stage,
which the caption names.  ``unimodal`` trains each modality alone: that is the ceiling for the
modality's accuracy in the other rows.  Writes comparison.md, .png, .tex, .json and comparison.html,
a page for any browser, into --workdir, and each run beside them; runs that are finished are not
repeated.

--study=NAME is a table of a paper: its rows in its order, with the published figures beside ours
where they exist for the data set.  table1, table2 and table3 are those of the MLA paper; fidelity
has the forms of MLA and each of their switches; dimml has DI-MML and its parts; forgetting measures
what the shared head forgets, with and without the projection; noise corrupts one modality of the
test split;
representation measures the features, and whether the fusion trusts the right modality; table4 has
the rows for features that you computed.

--runs=DIR,DIR puts finished runs into one table and trains nothing.  A folder may be a run, contain
runs named seed0, seed1, ..., or be the folder of a comparison.

Under missing modalities, method by rate:

    python -m mla_jax.compare --config=configs/mfeat.py --methods=table2 --missing=0,0.3,0.5,0.7

--missing gives the rates of config.missing, in all splits; with --config.missing.train=0 the
methods are trained once, on complete data, and tested at every rate.  `table2` is the twelve
methods of the MLA paper's Table 2.

--workers=N trains N rows at the same time, each in its own process, on CPUs.  --row=LABEL
trains only the runs of one row and writes no table: the rows of a large comparison can be trained
on several machines that share --workdir, and the command without --row makes the table.
"""

import datetime
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from mla_jax import distributed
from mla_jax.compare import (
    curves,
    layout,
    page,
    runs,
    statistics,
    sweep,
    sweep_table,
    table,
    training,
    workers,
)
from mla_jax.compare.diverged import Diverged
from mla_jax.compare.measures import MEASURES
from mla_jax.compare.studies import STUDIES
from mla_jax.compare.training import Progress
from mla_jax.compare.variants import Part, Variant, parse_variants, parts_of
from mla_jax.compare.vary import grid
from mla_jax.config import command_line, fields
from mla_jax.errors import UserError, check_choice, space_watched
from mla_jax.runs.workdir import ELSEWHERE_EMPTY, Workdir, foreign

METHODS = ("unimodal", "concat", "late_fusion", "mla")
ENDING = "-compare"
"""The end of the default folder's name."""


def main() -> None:
    """The comparison of the command line."""
    F = flags.FLAGS
    if F["runs"].present:
        return compare_runs(F.runs)
    study = chosen_study()
    workdir = command_line.local_folder(command_line.workdir(f"-{F.study}" if study else ENDING))
    rates, seeds, vary = F.missing, F.seeds, F.vary or []
    entries = F.methods
    if study:
        entries, rates, vary = list(study.entries), study.missing, [*study.vary, *vary]
        seeds = F.seeds if F["seeds"].present else study.seeds
    elif entries is None:
        entries = ["table2"] if rates else METHODS
    variants, seeds = grid(parse_variants(entries), vary), parse_seeds(seeds)
    if study:
        variants = [v._replace(defaults=study.settings) for v in variants]
    if F.row is not None:
        check_choice("row", F.row, [v.label for v in variants])
    workers.check_count(F.workers)
    if rates:
        for field in variants[0].fields:
            if field.startswith("missing."):
                raise UserError(f"--missing and --vary={field} both set what is missing: use one")
        return compare_missing(variants, seeds, sweep.parse_rates(rates), workdir)
    plan = {v.label: parts_of(v) for v in variants}  # finds mistakes before the first run
    parts = [part for row in plan.values() for part in row]
    check_folders(parts, seeds, workdir)
    sources = training.trained_folders(parts)
    trained = [workdir / p.folder / f"seed{s}" for p in parts for s in seeds
               if sources[p.folder] == p.folder]  # fmt: skip
    evaluated = [workdir / p.folder / f"seed{s}" for p in parts for s in seeds
                 if sources[p.folder] != p.folder]  # fmt: skip
    folders_of = {label: [part.folder for part in row] for label, row in plan.items()}
    by_themselves = [v for v, row in folders_of.items() if all(sources[f] == f for f in row)]
    diverged = Diverged()
    if F.workers > 1:
        total = len(trained) + len(evaluated)
        diverged.reasons = workers.train_rows(by_themselves, F.workers, total)
    if F.row is not None:
        if F.row not in by_themselves:
            raise UserError(
                f"--row={F.row} is evaluated from the runs of another row: leave --row out "
                "once that row is trained"
            )
        variants = [v for v in variants if v.label == F.row]
        trained, evaluated = [p for p in trained if p.parent.name in folders_of[F.row]], []
    progress = Progress(trained, evaluated, reported=F.workers > 1)
    del parts

    def train(variant: Variant, row: list[Part]) -> dict[str, Any]:
        results = training.train_row(row, seeds, workdir, sources, progress)
        folders = [[workdir / p.folder / f"seed{seed}" for p in row] for seed in seeds]
        return training.row_of(variant, results, folders)

    rows = diverged.other_rows(variants, plan, train)
    if F.row is None:
        about = table.about(first_result(rows), F.config.epochs)
        rows = rows if study else table.ranked(rows)
        write(table, workdir, rows, seeds, about, diverged=diverged.reasons)


def compare_runs(folders: Sequence[str]) -> None:
    """The comparison of finished runs."""
    F = flags.FLAGS
    for name in ("config", "study", "methods", "vary", "missing", "seeds", "data_dir", "row",
                 "workers"):  # fmt: skip
        if F[name].present:
            raise UserError(f"--runs trains nothing, so --{name} does not apply: leave it out")
    rows, found = runs.rows_of(folders)
    workdir = command_line.local_folder(F.workdir or f"runs/runs{ENDING}")
    check_folders([], [], workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    about = table.about(found[0].result, found[0].config["epochs"])
    about["commit"] = ", ".join(dict.fromkeys(run.result["commit"] or "none" for run in found))
    write(table, workdir, table.ranked(rows), seeds, about)


def chosen_study():
    """The study of ``--study``, or None.

    Raises:
      UserError: no study has that name, or another option sets what the study sets.
    """
    F = flags.FLAGS
    if F.study is None:
        return None
    check_choice("study", F.study, STUDIES)
    for name in ("methods", "missing"):
        if F[name].present:
            raise UserError(f"--study={F.study} sets its own --{name}: leave out one of the two")
    return STUDIES[F.study]


def first_result(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The result of the first run of the first row."""
    result = Workdir(rows[0]["runs"][0]).result()
    assert result is not None
    return result


def write(
    writer: Any,
    workdir: pathlib.Path,
    rows: list[dict[str, Any]],
    seeds: list[int],
    about: dict[str, Any],
    **more: Any,
) -> None:
    """Writes a comparison and prints its table; ``writer`` is ``table`` or ``sweep_table``."""
    if not distributed.is_main():
        return
    found = {**origin(seeds), **more, "rows": rows, "about": about}
    if name := flags.FLAGS.study:
        found["study"] = layout.of_study(name, STUDIES[name], rows, about["dataset"])
    training.name_runs(rows, workdir)
    if writer is sweep_table:
        found["statistics"] = sweep.statistics_by_rate(rows)
    else:
        together = [row for row in rows if not row["alone"]]
        folders = {row["label"]: [workdir / path for path in row["runs"]] for row in together}
        found["statistics"] = statistics.of_runs(folders)
        alone = {row["label"]: "trains one modality at a time" for row in rows if row["alone"]}
        found["statistics"]["without"] |= alone
    with space_watched(workdir):
        if name and (measure := STUDIES[name].measure):
            found["study"][measure] = MEASURES[measure].of_rows(rows, workdir)
        print("\n" + writer.write(workdir, found))
        page.write(workdir, found)
    for check in found.get("study", {}).get("checks", ()):
        print(layout.verdict(check))
    print(f"\n{workdir}: {', '.join(table.FILES)}")


def compare_missing(
    variants: Sequence[Variant], seeds: list[int], rates: list[float], workdir: pathlib.Path
) -> None:
    """The comparison of the command line at every rate of missing modalities."""
    F = flags.FLAGS
    if F.row is not None:  # the parts of the others, one per rate, are not needed
        variants = [v for v in variants if v.label == F.row]
    plan = {v.label: sweep.parts_at(v, rates) for v in variants}
    parts = [part for row in plan.values() for part in row.values()]
    check_folders(parts, seeds, workdir)
    trained = [workdir / p.folder / f"seed{seed}" for p in parts for seed in seeds]
    diverged = Diverged()
    if F.workers > 1:
        diverged.reasons = workers.train_rows(list(plan), F.workers, len(trained))
    progress = Progress(trained, reported=F.workers > 1)
    del parts

    def train(variant: Variant, at_rates: dict[float, Part]) -> dict[str, Any]:
        return sweep.train_row(variant, at_rates, rates, seeds, workdir, progress)

    rows = diverged.other_rows(variants, plan, train)
    if F.row is None:
        about = table.about(result := first_result(rows), F.config.epochs)
        facts = {"missing": result["missing"], "trained_once": sweep.trained_once()}
        write(sweep_table, workdir, rows, seeds, about, **facts, diverged=diverged.reasons)


def origin(seeds: list[int]) -> dict[str, Any]:
    """The command, the date and the seeds."""
    command = shlex.join(["python", "-m", "mla_jax.compare", *sys.argv[1:]])
    return {"command": command, "date": datetime.date.today().isoformat(), "seeds": seeds}


def parse_seeds(texts: Sequence[str]) -> list[int]:
    """The seeds of ``--seeds``; ``UserError`` unless they are different integers."""
    try:
        seeds = [int(text) for text in texts]
    except ValueError as error:
        raise UserError(f"--seeds={','.join(texts)} must be integers, for example 0,1,2") from error
    if not all(0 <= seed < 2**31 for seed in seeds):
        raise UserError(f"--seeds={','.join(texts)} must be at least 0 and at most {2**31 - 1}")
    if len(set(seeds)) != len(seeds) or not seeds:
        raise UserError(f"--seeds={','.join(texts)} must be different integers")
    if "seed" in command_line.config_overrides():
        raise UserError("--config.seed and --seeds both set the seeds: use only --seeds")
    return seeds


def check_folders(parts: Sequence[Part], seeds: Sequence[int], workdir: pathlib.Path) -> None:
    """Raises ``UserError`` unless the table and every run can be written to ``workdir``."""
    Workdir(workdir).check_path()
    if flags.FLAGS.row is None:  # one row writes no table, and others may be appearing beside it
        rows = {path.parent.name for path in workdir.glob("*/seed*")}
        plots = {curves.FILE, *(plot for measure in MEASURES.values() for plot in measure.PLOTS)}
        ours = {*table.FILES, *plots, *rows, *(part.folder for part in parts)}
        if name := foreign(workdir, ours):
            raise UserError(
                f"--workdir={workdir} holds {name} but no comparison: {ELSEWHERE_EMPTY}"
            )
        for name in table.FILES:
            command_line.check_output(workdir / name, "--workdir", makes_folders=True)
    for part in parts:
        for seed in seeds:
            part.config.seed = seed
            config = fields.resolve(part.config)
            identity = {"config": fields.to_json(config), "data": part.fingerprint}
            Workdir(workdir / part.folder / f"seed{seed}").check(identity)


if __name__ == "__main__":
    command_line.define_flags()
    flags.DEFINE_list(
        "methods",
        None,
        "methods, and variants as NAME:field=value+field=value; 'all': every method that is not "
        "about missing modalities; 'table2': those of the MLA paper's Table 2, the default with "
        f"--missing (default: {','.join(METHODS)})",
    )
    flags.DEFINE_multi_string(
        "vary", None, "FIELD=a,b,c: one row per value of a field of the configuration"
    )
    flags.DEFINE_string("study", None, f"a table of a paper: {', '.join(STUDIES)}")
    flags.DEFINE_list("runs", None, "folders of finished runs, for one table; trains nothing")
    flags.DEFINE_list(
        "missing", [], "rates of missing modalities, for example 0,0.3,0.5; see config.missing"
    )
    flags.DEFINE_integer("workers", 1, "how many rows are trained at the same time, on CPUs")
    flags.DEFINE_string(
        "row", None, "trains only the runs of the row with this label, and writes no table"
    )
    flags.DEFINE_list("seeds", ["0", "1", "2"], "every row has one run per seed")
    command_line.run_command(main, ENDING, lambda: not flags.FLAGS["runs"].present)
