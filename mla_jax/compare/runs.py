"""``--runs=DIR,DIR``: any finished runs in one table, without training."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mla_jax import methods
from mla_jax.compare.training import row_of
from mla_jax.compare.variants import Variant
from mla_jax.config import fields
from mla_jax.errors import UserError
from mla_jax.runs.workdir import Workdir

SAME = ("dataset", "protocol", "split", "selection rule", "number of test examples")
"""What all runs of one table must share."""
BY_FIDELITY = ("drop_last", "absent", "head_init")
"""Fields that the fidelity sets unless the user does; a label does not repeat them."""

DATA_FIELDS = ("dataset.", "missing.")
PLACES = ("dataset.path", "dataset.data_dir", "dataset.stage_dir", "missing.masks")


class Finished(NamedTuple):
    """A finished run."""

    path: pathlib.Path
    config: dict[str, Any]
    """Flat, without the fields on which no result depends."""
    result: dict[str, Any]
    data: str
    """The fingerprint of its data."""

    @property
    def method(self) -> str:
        return self.config["method.name"]

    @property
    def alone(self) -> bool:
        """Whether it trains one modality of a row (``methods.trains_one_modality``)."""
        return self.method in methods.REGISTRY and methods.trains_one_modality(self.method)

    @property
    def key(self) -> str:
        """Equal for the runs of one row."""
        ignored = ("seed", "modalities") if self.alone else ("seed",)
        return json.dumps({k: v for k, v in self.config.items() if k not in ignored})


def rows_of(folders: Sequence[str]) -> tuple[list[dict[str, Any]], list[Finished]]:
    """The rows that ``--runs`` makes, in the order of the folders, and the runs.

    Runs whose configurations differ only in the seed are one row.

    Raises:
      UserError: a folder without a finished run, or runs that cannot be in one table.
    """
    runs = [read(path) for folder in folders for path in expanded(folder)]
    if not runs:
        raise UserError("--runs is empty: give folders of finished runs, for example runs/a,runs/b")
    for run in runs[1:]:
        check_comparable(runs[0], run)
    check_same_data(runs)
    groups: dict[str, list[Finished]] = {}
    for run in runs:
        groups.setdefault(run.key, []).append(run)
    members = list(groups.values())
    rows = []
    for variant, group in zip(labelled(members), members, strict=True):
        seeds, parts = by_seed(group)
        results = [[run.result for run in of_seed] for of_seed in parts]
        row = row_of(variant, results, [[run.path for run in of_seed] for of_seed in parts])
        rows.append(row | {"seeds": seeds})
    return rows, runs


def expanded(folder: str) -> list[pathlib.Path]:
    """The runs in a folder: the folder itself, its ``seed*``, or those of the comparison in it.

    Raises:
      UserError: there are none.
    """
    path = pathlib.Path(folder)
    for pattern in ("config.json", "seed*/config.json", "*/seed*/config.json"):
        found = {file.parent for file in path.glob(pattern)} if folder else set()
        if found:
            return sorted(found, key=lambda p: (str(p.parent), _number(p.name), p.name))
    raise UserError(
        f"--runs names '{folder}', which holds no run (no config.json): name the --workdir of a "
        "training"
    )


def _number(name: str) -> int:
    digits = name.removeprefix("seed")
    return int(digits) if digits.isdecimal() else -1


def read(path: pathlib.Path) -> Finished:
    """The finished run in a folder; ``UserError`` if it is not finished, or damaged."""
    workdir = Workdir(path)
    identity, result = workdir.identity(), workdir.result()
    if identity is None or result is None:
        raise UserError(
            f"--runs names {path}, which is not finished (no result.json): train it to its end, or "
            "leave it out"
        )
    flat = fields.flatten(identity["config"])
    config = {k: v for k, v in sorted(flat.items()) if not k.startswith(fields.NOT_COMPARED)}
    return Finished(path, config, result, identity["data"])


def check_comparable(a: Finished, b: Finished) -> None:
    """Raises ``UserError`` if two runs cannot be in one table."""

    def facts(run: Finished) -> tuple[Any, ...]:
        result = run.result
        split = run.config["dataset.split"]
        rule, examples = result["selection"]["rule"], result["test"]["examples"]
        return result["dataset"], result["protocol"], split, rule, examples

    for what, one, other in zip(SAME, facts(a), facts(b), strict=True):
        if one != other:
            raise UserError(
                f"--runs names {a.path} and {b.path}, whose {what} differs ({one} and {other}): "
                "compare them in tables of their own"
            )


def check_same_data(runs: Sequence[Finished]) -> None:
    """Raises ``UserError`` if runs with equal settings for the data have different data.

    Runs may have different settings (modalities, what is missing, noise), and then their
    fingerprints may differ.  The folder of the data is not such a setting.
    """
    first: dict[str, Finished] = {}
    for run in runs:
        chosen = {
            k: v for k, v in run.config.items() if k == "modalities" or k.startswith(DATA_FIELDS)
        }
        other = first.setdefault(json.dumps({k: chosen[k] for k in chosen if k not in PLACES}), run)
        if other.data != run.data:
            raise UserError(
                f"--runs names {other.path} and {run.path}, which were trained on different data "
                f"(fingerprints {other.data} and {run.data}): compare them in tables of their own"
            )


def by_seed(group: Sequence[Finished]) -> tuple[list[int], list[list[Finished]]]:
    """The seeds of a row, sorted, and its runs ``[seed][part]``.

    Raises:
      UserError: two runs are the same, or a seed lacks a modality that another has.
    """
    found: dict[int, dict[str, Finished]] = {}
    parts = list(dict.fromkeys("+".join(run.config["modalities"]) for run in group))
    for run in group:
        part, of_seed = "+".join(run.config["modalities"]), found.setdefault(run.config["seed"], {})
        if part in of_seed:
            raise UserError(
                f"--runs names {of_seed[part].path} and {run.path}, which are the same training "
                f"with the same seed ({run.config['seed']}): leave one out"
            )
        of_seed[part] = run
    for seed, of_seed in found.items():
        if lacking := [part for part in parts if part not in of_seed]:
            raise UserError(
                f"--runs has '{group[0].method}' of seed {seed} without {lacking[0]}, which "
                "another seed has: add that run, or leave the seed out"
            )
    seeds = sorted(found)
    return seeds, [[found[seed][part] for part in parts] for seed in seeds]


def labelled(groups: Sequence[Sequence[Finished]]) -> list[Variant]:
    """A label, switches and fields per row, from the comparison that made it or from its runs.

    A label also names the fields in which rows of this table differ, and the folder if it would
    otherwise equal the label of another row.
    """
    first = [group[0] for group in groups]
    varying = differing_fields(first)
    recorded = [recorded_row(run.path) for run in first]
    names = [row["label"] for row in recorded if row]
    found = []
    for row, run in zip(recorded, first, strict=True):
        if not row or names.count(row["label"]) > 1:
            row = own_row(run)
        differing = {f: run.config[f] for f in varying if f in run.config and not _decides(run, f)}
        unsaid = {f: value for f, value in differing.items() if f not in row["fields"]}
        label = row["label"] + "".join(f", {f}={written(value)}" for f, value in unsaid.items())
        found.append(Variant(label, run.method, row["switches"], {**row["fields"], **unsaid}))
    labels = [variant.label for variant in found]
    return [
        variant._replace(label=f"{variant.label} ({run.path})")
        if labels.count(variant.label) > 1
        else variant
        for variant, run in zip(found, first, strict=True)
    ]


def recorded_row(path: pathlib.Path) -> Mapping[str, Any] | None:
    """The row of ``comparison.json`` that a run belongs to, if it is in a comparison's folder."""
    folder = path.absolute().parent.parent
    try:
        content = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
        for row in content["rows"]:
            if os.path.relpath(path.absolute(), folder) in row["runs"]:
                return {key: row[key] for key in ("label", "switches", "fields")}
    except (OSError, ValueError, KeyError, TypeError):  # missing, or of another version
        pass
    return None


def own_row(run: Finished) -> dict[str, Any]:
    """Label, switches and fields of a run that belongs to no comparison."""
    switches = own_switches(run.config)
    setting = "+".join(f"{switch}={written(value)}" for switch, value in switches.items())
    label = f"{run.method}:{setting}" if setting else run.method
    return {"label": label, "switches": switches, "fields": {}}


def own_switches(config: Mapping[str, Any]) -> dict[str, Any]:
    """The switches of a run that differ from those of its fidelity."""
    name, fidelity = config["method.name"], config["method.fidelity"]
    if name not in methods.REGISTRY or fidelity not in methods.get(name).FIDELITY:
        return {}
    preset = fields.flatten(fields.resolve_switches({"name": name, "fidelity": fidelity}))
    preset = json.loads(json.dumps(preset))  # tuples become lists, as they did in config.json
    return {k: config[f"method.{k}"] for k in preset if config[f"method.{k}"] != preset[k]}


def differing_fields(runs: Sequence[Finished]) -> list[str]:
    """The fields in which runs differ, except the seed, the method's and those that it decides."""
    ignored = {"seed", *BY_FIDELITY}
    names = sorted({name for run in runs for name in run.config})
    return [
        name
        for name in names
        if name not in ignored
        and not name.startswith("method.")
        and len({json.dumps(run.config.get(name)) for run in runs if not _decides(run, name)}) > 1
    ]


def _decides(run: Finished, name: str) -> bool:
    return name == "modalities" and run.alone


def written(value: Any) -> str:
    """A value in the form that ``--methods`` takes."""
    if isinstance(value, bool):
        return str(value).lower()
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
