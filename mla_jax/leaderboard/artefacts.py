"""The files of ``results/``, made from finished comparisons after checking their runs."""

import json
import math
import pathlib
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import FrozenConfigDict

from mla_jax.compare import sweep_table
from mla_jax.compare.measures import MEASURES
from mla_jax.errors import UserError
from mla_jax.runs import reload
from mla_jax.runs.nulls import number, with_nulls
from mla_jax.runs.workdir import Workdir

FOLDER = "results"
EMBEDDED = ("digits", "mfeat")
"""Data sets that are part of the package: a run's fingerprint must be the current one."""
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
ROW = (
    "label", "heading", "method", "switches", "fields", "fidelity", "alone", "seeds", "published",
    "evaluated_from", "test", "mean", "interval", "rates", "seconds", "examples_per_second",
    "flops", "compile_seconds", "parameters", "stages",
)  # fmt: skip
"""What an artefact keeps of a row: all that the tables show, but no folders."""
FOLDER_OPTIONS = ("--workdir", "--data_dir", "--runs", "--compilation_cache")
LEFT_OUT = ("--workdir", "--compilation_cache")
"""Those that no figure depends on."""
SHARED = ("command", "date", "seeds", "about", "missing", "trained_once")
INNERMOST = (re.compile(r"\[\n[^\[\]{}]*?\n\s*\]"), re.compile(r"{\n[^{}]*?\n\s*}"))
"""Lists, then objects, that contain neither."""
COSTS, DIGITS = ("seconds", "examples_per_second", "compile_seconds"), 4
"""Figures kept to so many significant digits; the others are exact, so that tables are equal."""
AGAIN = "repeat its command, which repeats no training, and then add it"

Artefact = dict[str, Any]
"""``kind`` is ``comparison``: as comparison.json, without folders, with ``data``, the fingerprints.
Or it is ``measurement``, made by hand: ``command``, ``date``, ``commit``, ``machine``,
``values``."""


class Finished(NamedTuple):
    """A finished run of a comparison."""

    path: pathlib.Path
    config: Mapping[str, Any]
    data: str
    """The fingerprint of its data."""
    result: Mapping[str, Any]

    @property
    def conditions(self) -> str:
        """The part of the data that it used: runs with the same part have the same fingerprint."""
        missing = self.config["missing"]
        seen = "+".join(self.config["modalities"])
        if missing["rule"] == "none" and not missing["masks"]:
            return seen
        return f"{seen} {missing['rule']} {missing['train']:g} {missing['test']:g}"


def of_comparison(comparison: pathlib.Path, root: pathlib.Path) -> Artefact:
    """The artefact of a finished comparison.

    The figures of the runs are compared with the table's.  What a study measures besides
    accuracy, and the statistics except their means, are taken from ``comparison.json`` unchecked.

    Args:
      comparison: the folder that ``mla_jax.compare`` wrote.
      root: the repository.

    Raises:
      UserError: there is no comparison, a run is not finished, or something does not match.
    """
    path = comparison / "comparison.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        listed = {row["label"]: row["runs"] for row in found["rows"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--comparison={comparison} holds no comparison.json whose rows name their runs: name "
            "the --workdir of a finished mla_jax.compare"
        ) from error
    runs: dict[str, list[Finished]] = {}
    for label, folders in listed.items():
        if not isinstance(folders, list):
            raise UserError(f"'{label}' in {path} does not name its runs: {AGAIN}")
        runs[label] = [read(comparison / folder) for folder in folders]
    every = [run for of_row in runs.values() for run in of_row]
    check_same(every, found["about"])
    fingerprints = check_data(every)
    check_commit(every[0].result["commit"], root)
    for row in found["rows"]:
        check = check_rates if "rates" in row else check_row
        check(row, runs[row["label"]], row.get("seeds", found["seeds"]))
        statistics = found.get("statistics", {})
        for rate, cell in row.get("rates", {"": {"accuracy": row.get("test", {})}}).items():
            check_statistics(row["label"], cell["accuracy"], statistics.get(rate, statistics))
    return {
        "kind": "comparison",
        **{key: found[key] for key in SHARED if key in found},
        "command": without_folders(found["command"]),
        "data": fingerprints,
        **{key: found[key] for key in ("study", "statistics") if key in found},
        "rows": [_kept(row) for row in found["rows"]],
    }


def without_folders(command: str) -> str:
    """A command without ``LEFT_OUT``, and with DIR instead of the machine's other folders.

    >>> without_folders("python -m mla_jax.compare --workdir='/a b' --data_dir /x --seeds=0")
    'python -m mla_jax.compare --data_dir=DIR --seeds=0'
    """
    found, words = [], iter(shlex.split(command))
    for word in words:
        name, equals, _ = word.partition("=")
        if name in FOLDER_OPTIONS and not equals:
            next(words, None)
        if name not in FOLDER_OPTIONS:
            found.append(word)
        elif name not in LEFT_OUT:
            found.append(f"{name}=DIR")
    return shlex.join(found)


def read(path: pathlib.Path) -> Finished:
    """The finished run in a folder; ``UserError`` if it is not finished, or damaged."""
    workdir = Workdir(path)
    identity, result = workdir.identity(), workdir.result()
    if identity is None or result is None:
        raise UserError(f"{path} is not finished (no result.json): train it to its end first")
    return Finished(path, identity["config"], identity["data"], result)


def check_same(runs: Sequence[Finished], about: Mapping[str, Any]) -> None:
    """Raises ``UserError`` unless the runs and the table agree on what one table must share."""

    def facts(result: Mapping[str, Any]) -> dict[str, Any]:
        shared = {key: result[key] for key in ("dataset", "protocol", "commit")}
        return {**shared, "selection rule": result["selection"]["rule"]}

    told = {**facts(about), "number of test examples": about["examples"]}
    for run in runs:
        examples = {"number of test examples": run.result["test"]["examples"]}
        for what, value in {**facts(run.result), **examples}.items():
            if value != told[what]:
                raise UserError(
                    f"{run.path} has another {what} than comparison.json ({value} and "
                    f"{told[what]}): figures of one artefact are of one kind, so train it again"
                )


def check_data(runs: Sequence[Finished]) -> dict[str, str]:
    """``{Finished.conditions: fingerprint of the data}``.

    Raises:
      UserError: runs under the same conditions have different data, or embedded data has changed.
    """
    first: dict[str, Finished] = {}
    for run in runs:
        other = first.setdefault(run.conditions, run)
        if run.data != other.data:
            raise UserError(
                f"{run.path} has other data than {other.path} ({run.data} and {other.data}): train "
                "both on the same"
            )
    for run in first.values():
        if run.result["dataset"] in EMBEDDED:
            reload.dataset_of(FrozenConfigDict(run.config), run.path, run.data)
    return {conditions: run.data for conditions, run in sorted(first.items())}


def check_commit(commit: str, root: pathlib.Path) -> None:
    """Raises ``UserError`` unless the runs' code is a commit of this repository's history."""
    if not commit or commit.endswith("-dirty"):
        raise UserError(
            f"the runs were trained at '{commit}', which is not a commit: commit the changes, "
            "and train again in a clone"
        )
    git = ["git", "-C", str(root)]
    try:
        inside = subprocess.run([*git, "rev-parse", "--git-dir"], capture_output=True)
        fits = subprocess.run(
            [*git, "merge-base", "--is-ancestor", commit, "HEAD"], capture_output=True
        )
    except OSError as error:
        raise UserError(f"git cannot be run ({error.strerror}): install git") from error
    if inside.returncode:
        raise UserError(f"{root} is not a git repository: add results in a clone of mla_jax")
    if fits.returncode:
        raise UserError(
            f"the runs were trained at {commit}, which is not an ancestor of HEAD: merge it, or "
            "train them again here"
        )


def check_row(row: Mapping[str, Any], runs: Sequence[Finished], seeds: Sequence[int]) -> None:
    """Raises ``UserError`` unless a row's figures are those of its runs."""
    for figure, values in row["test"].items():
        of_seed = {
            run.result["seed"]: number(run.result["test"][figure])
            for run in runs
            if figure in run.result["test"]["macro_f1"]
        }
        _check_figures(row["label"], figure, values, of_seed, seeds)
    own = sum(run.result["parameters"] for run in runs if run.result["seed"] == seeds[0])
    if own != row["parameters"]:
        raise UserError(
            f"'{row['label']}' has {row['parameters']} parameters in comparison.json and {own} in "
            f"its runs: {AGAIN}"
        )


def check_rates(row: Mapping[str, Any], runs: Sequence[Finished], seeds: Sequence[int]) -> None:
    """``check_row`` for a row under missing modalities, at the rates that have their own runs.

    A method that was trained once has runs only at its first rate.
    """
    by_rate: dict[str, dict[int, Finished]] = {}
    for run in runs:
        by_rate.setdefault(f"{run.config['missing']['test']:g}", {})[run.result["seed"]] = run
    if unknown := [rate for rate in by_rate if rate not in row["rates"]]:
        raise UserError(f"'{row['label']}' has runs at {unknown[0]}, but no such rate: {AGAIN}")
    for rate, of_rate in by_rate.items():
        for figure, values in row["rates"][rate]["accuracy"].items():
            found = {seed: number(run.result["test"][figure]) for seed, run in of_rate.items()}
            _check_figures(f"{row['label']} at {rate}", figure, values, found, seeds)


def _check_figures(
    where: str,
    figure: str,
    values: Sequence[float | None],
    of_seed: Mapping[int, float],
    seeds: Sequence[int],
) -> None:
    own = [of_seed.get(seed) for seed in seeds]
    if with_nulls(own) != list(values):
        raise UserError(
            f"'{where}' has {figure} {list(values)} in comparison.json and {own} in its runs "
            f"(seeds {', '.join(map(str, seeds))}): {AGAIN}"
        )


def check_statistics(
    label: str, test: Mapping[str, Sequence[float]], statistics: Mapping[str, Any]
) -> None:
    """Raises ``UserError`` if the tested accuracy is not that of the row."""
    tested = statistics.get("rows", {}).get(label)
    if tested and not math.isclose(tested["accuracy"], np.mean(test["fused"]), abs_tol=1e-6):
        raise UserError(
            f"the statistics of '{label}' are of accuracy {tested['accuracy']}, not of "
            f"{np.mean(test['fused'])}: {AGAIN}"
        )


def _kept(row: Mapping[str, Any]) -> dict[str, Any]:
    """What an artefact keeps of a row."""
    kept = {key: row[key] for key in ROW if key in row}
    kept |= {key: _rounded(kept[key]) for key in COSTS if key in kept}
    if "rates" in kept:
        ends = {next(iter(row["rates"])), list(row["rates"])[-1]}
        kept["rates"] = {
            rate: {
                "accuracy": found["accuracy"],
                **{f: {"fused": found[f]["fused"]} for f in ("macro_f1", "weighted_f1")},
                "subsets": by_size(found["subsets"]) if rate in ends else {},
                "true_rate": found["true_rate"],
            }
            for rate, found in row["rates"].items()
        }
    return kept


def by_size(subsets: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Accuracy by subset of modalities; if there are many, the mean over each size."""
    names = [name for name in subsets if name != "incomplete"]
    if len(names) <= sweep_table.MOST_COLUMNS:
        return {name: list(values) for name, values in subsets.items()}
    groups: dict[str, list[Sequence[float]]] = {}
    for name in names:
        groups.setdefault(f"{name.count('+') + 1} given", []).append(subsets[name])
    means = {group: np.mean(values, 0).tolist() for group, values in groups.items()}
    return {**means, "incomplete": list(subsets["incomplete"])}


def _rounded(content: float | list[float]) -> Any:
    if isinstance(content, list):
        return [_rounded(value) for value in content]
    return float(f"{content:.{DIGITS}g}")


def write(artefact: Artefact, path: pathlib.Path) -> None:
    """Writes an artefact; lists and objects of only numbers and words are on one line."""
    text = json.dumps(with_nulls(artefact), indent=1, ensure_ascii=False)
    for innermost in INNERMOST:
        text = innermost.sub(lambda found: re.sub(r"\n\s+", " ", found[0]), text)
    path.write_text(
        re.sub(r"(?<=[\[{]) (?=\S)|(?<=\S) (?=[\]}])", "", text) + "\n", encoding="utf-8"
    )


def read_all(root: pathlib.Path) -> dict[str, Artefact]:
    """The artefacts of a repository, by name.

    Raises:
      UserError: the folder is missing, or an artefact is damaged.
    """
    folder = root / FOLDER
    if not folder.is_dir():
        raise UserError(f"{root} holds no {FOLDER}: name the top of a clone of mla_jax with --root")
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            needed: tuple[str, ...] = ("date", "about", "data", "rows")
            if content["kind"] == "measurement":
                needed = ("command", "date", "commit", "machine", "values")
            content |= {key: content[key] for key in needed}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is damaged ({error!r}): make it again, as {FOLDER}/README.md says"
            ) from error
        for measure in MEASURES.keys() & content.get("study", {}).keys():
            content["study"][measure] = _with_nan(content["study"][measure])
        for row in content.get("rows", ()):
            row.setdefault("flops", None)  # for comparisons of earlier versions
            row |= {key: _with_nan(row[key]) for key in ("test", "rates") if key in row}
        found[path.stem] = content
    return found


def _with_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _with_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_nan(value) for value in content]
    return math.nan if content is None else content
