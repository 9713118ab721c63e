"""The runs of a comparison: training, evaluating finished runs under other rules, progress."""

import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mla_jax import distributed, methods
from mla_jax.compare import table
from mla_jax.compare.diverged import require_finite
from mla_jax.compare.variants import Part, Variant
from mla_jax.config import fields
from mla_jax.data import missing
from mla_jax.data.example_checks import remarks
from mla_jax.datasets import load_dataset
from mla_jax.program import masked
from mla_jax.runs import outcome, report
from mla_jax.runs.predictions import save_classes
from mla_jax.runs.run import Run
from mla_jax.runs.workdir import Workdir
from mla_jax.train import evaluate_all, train

ORIGIN = "evaluated_from"
"""A key of ``result.json``: the folder of the trained run, if this run was only evaluated."""


class Progress:
    """Prints how many runs of how many are done, and about how long the others will take.

    The estimate is the mean time of the runs trained in this process, times the runs left to train.
    """

    def __init__(
        self,
        trained: Iterable[pathlib.Path],
        evaluated: Iterable[pathlib.Path] = (),
        reported: bool = False,
    ):
        """``trained``: folders of runs to train; ``evaluated``: of runs that need no training.

        ``reported``: whether lines about the runs that are already finished were printed before.
        """
        trained = list(trained)
        self._total, self._done = len(trained) + len(list(evaluated)), 0
        self._open = {path for path in trained if not (path / "result.json").exists()}
        self._reported = set(trained) - self._open if reported else set()
        self._seconds: list[float] = []
        self._since = time.perf_counter()

    def say(self, path: pathlib.Path, result: Mapping[str, Any]) -> None:
        """Prints the line about a run that has just ended."""
        line = self.line(path, result)
        if path not in self._reported and distributed.is_main():
            print(line, flush=True)

    def line(self, path: pathlib.Path, result: Mapping[str, Any]) -> str:
        """The line about a run that has just ended."""
        now = time.perf_counter()
        if path in self._open:
            self._open.remove(path)
            self._seconds.append(now - self._since)
        self._since = now
        self._done += 1
        name = f"{path.parent.name} {path.name.replace('seed', 'seed ')}"
        text = f"run {self._done} of {self._total}: {name}: "
        text += f"test {report.accuracies(result['test'])}; {table.seconds(result):.1f} s"
        if self._open and self._seconds:
            left = sum(self._seconds) / len(self._seconds) * len(self._open)
            text += f"; about {duration(left)} left"
        return text


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def trained_folders(parts: Sequence[Part]) -> dict[str, str]:
    """``{folder: folder of the run that is trained for it}``, which may be the same folder.

    Two runs that differ only in switches that act at test time (``methods.test_time``) share one
    training, unless the epoch is chosen by accuracy, since fused accuracy depends on the fusion.
    """
    found: dict[str, str] = {}
    first: dict[str, str] = {}
    for part in parts:
        switches = methods.test_time(part.config.method.name)
        if part.selection != "last" or not switches:
            found[part.folder] = part.folder
            continue
        settings = fields.flatten(fields.to_json(fields.resolve(part.config)))
        ignored = {"seed", *(f"method.{switch}" for switch in switches)}
        settings = {k: v for k, v in settings.items() if k not in ignored}
        key = json.dumps([settings, part.fingerprint], sort_keys=True)
        found[part.folder] = first.setdefault(key, part.folder)
    return found


def train_row(
    parts: Sequence[Part],
    seeds: Sequence[int],
    workdir: pathlib.Path,
    sources: Mapping[str, str],
    progress: Progress,
) -> list[list[dict[str, Any]]]:
    """Trains, or evaluates, what is not finished yet; the results of one row, ``[seed][part]``.

    ``sources`` is the result of ``trained_folders``.

    Raises:
      NonFiniteLossError: a loss is not finite, or was not when a run was trained before.
    """
    require_finite(workdir / sources[p.folder] / f"seed{s}" for p in parts for s in seeds)
    results: list[list[dict[str, Any]]] = [[] for _ in seeds]
    for part in parts:
        source = sources[part.folder]
        for found, seed in zip(results, seeds, strict=True):
            part.config.seed = seed
            path = workdir / part.folder / f"seed{seed}"
            if source == part.folder:
                result = result_of(train(part.config, path, part.program, say=_nothing))
            else:
                result = evaluate_under(part, path, workdir / source / f"seed{seed}")
            found.append(result)
            progress.say(path, result)
    return results


def result_of(run: Run) -> dict[str, Any]:
    """The result of a finished run."""
    assert run.result is not None
    return run.result


def row_of(
    variant: Variant, results: table.Runs, paths: Sequence[Sequence[pathlib.Path]]
) -> dict[str, Any]:
    """A row, with the folders of its runs, which are ``paths: [seed][part]``.

    ``evaluated_from`` is the folder of the trained run, if the first run was only evaluated.
    """
    row = table.summarize_row(variant, results)
    row["runs"] = [os.path.abspath(path) for parts in paths for path in parts]
    if origin := results[0][0].get(ORIGIN):
        row["evaluated_from"] = os.path.normpath(os.path.join(row["runs"][0], origin))
    return row


def name_runs(rows: Sequence[dict[str, Any]], workdir: pathlib.Path) -> None:
    """Makes the folders of all rows relative to ``workdir``; a source becomes its row's label."""
    labels = {path: row["label"] for row in rows for path in row["runs"]}
    for row in rows:
        if source := row.get("evaluated_from"):
            row["evaluated_from"] = labels.get(source, source)
        row["runs"] = [os.path.relpath(path, workdir) for path in row["runs"]]


def evaluate_under(part: Part, path: pathlib.Path, source: pathlib.Path) -> dict[str, Any]:
    """The result that a run in ``path`` would have, from the finished run in ``source``.

    The two differ only in switches that act at test time.  ``path`` becomes a run like any other,
    with the checkpoints of ``source``.
    """
    config = fields.resolve(part.config)
    dataset = masked(config, load_dataset(config.dataset, config.modalities))
    run = Run(Workdir(path), config, dataset.spec(), dataset.fingerprint, _nothing)
    run.workdir.check(run.identity)
    base, found = Workdir(source).result(), run.result
    assert base is not None  # ``require_finite`` has passed
    same = found is not None and all(found[k] == base[k] for k in ("train", "selection"))
    if found is not None and run.is_finished() and (same or ORIGIN not in found):
        return found
    if run.workdir.newest_checkpoint() and not run.workdir.checkpoints.is_symlink():
        return result_of(train(part.config, path, part.program, say=_nothing))  # already begun
    if distributed.is_main():
        run.workdir.create(run.identity, run.data)
        run.workdir.extend(run.identity)
        _share(Workdir(source).checkpoints, run.workdir.checkpoints)
    distributed.barrier("shared checkpoints")
    run.use(part.program)
    chosen = part.program.placement.replicate(run.load())  # else evaluation compiles again
    scores = evaluate_all(part.program, chosen, dataset, config)
    test, size = dataset.splits["test"], config.evaluation.batch_size
    classes = part.program.evaluator.classes(chosen, test, size)
    facts = outcome.missing_facts(run, dataset)
    facts |= outcome.contribution_facts(run, dataset, facts.get("subsets"))
    if distributed.is_main():
        if dataset.masks:
            missing.save(path / missing.MASKS, dataset)
        figures = {split: outcome.without_counts(scores[split]) for split in scores}
        result = {**base, **figures, **facts, ORIGIN: os.path.relpath(source, path)}
        counts = scores["test"]["confusion"]
        report.write_report(path, result, run.identity, counts, run.class_names, remarks(dataset))
        save_classes(run.workdir.predictions, classes)
        run.workdir.finish(result)
        run.workdir.release()
    distributed.barrier("result")
    return result_of(run)


def _share(source: pathlib.Path, path: pathlib.Path) -> None:
    """Makes ``path`` a link to the folder ``source``, or a copy if links are not possible.

    A copy gets its name only when complete: a process that ends before leaves none.
    """
    if path.exists():
        return
    try:
        path.symlink_to(os.path.relpath(source, path.parent), target_is_directory=True)
    except OSError:
        unfinished = path.with_name(f".{path.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(source, unfinished)
        unfinished.replace(path)


def _nothing(line: str) -> None:
    """Prints nothing."""
