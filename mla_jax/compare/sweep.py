"""Methods under missing modalities: every method at every rate, in one table.

Where only the test split loses modalities (``--config.missing.train`` is given), a method is
trained once per seed and evaluated at all rates; otherwise it is trained at each of them.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mla_jax.compare import statistics
from mla_jax.compare.diverged import require_finite
from mla_jax.compare.training import Progress, result_of
from mla_jax.compare.variants import Part, Variant, config_of
from mla_jax.config import command_line, fields
from mla_jax.data.missing import MOST_PATTERNS, mask_split, missing_share
from mla_jax.datasets import load_dataset
from mla_jax.errors import UserError
from mla_jax.methods import trains_one_modality
from mla_jax.program import Program, build_program, masked
from mla_jax.runs import predictions
from mla_jax.runs.nulls import number
from mla_jax.runs.run import Run
from mla_jax.train import train

CLASSES = "classes"
"""A row's key, until it is written, for ``{rate: what its runs predict, each with its seed}``."""

Figures = dict[str, Any]
"""``{"accuracy": {fused or modality: float}, "macro_f1", "weighted_f1", "subsets", "true_rate",
"classes": (seed, Classes or None)}``."""


def parse_rates(texts: Sequence[str]) -> list[float]:
    """The rates of ``--missing``; ``UserError`` unless they are different numbers in [0, 1]."""
    try:
        rates = [float(text) for text in texts]
    except ValueError as error:
        raise UserError(f"--missing={','.join(texts)} must be rates, as in 0,0.3,0.5") from error
    if not all(0 <= rate <= 1 for rate in rates) or len(set(rates)) != len(rates):
        raise UserError(f"--missing={','.join(texts)} must be different rates from 0 to 1")
    if "missing.test" in command_line.config_overrides():
        raise UserError("--config.missing.test and --missing both set what is missing: use one")
    return sorted(rates)


def trained_once() -> bool:
    """Whether the training split has its own rate, so that a method is trained only once."""
    return "missing.train" in command_line.config_overrides()


def parts_at(variant: Variant, rates: Sequence[float]) -> dict[float, Part]:
    """``{rate: the runs of a row}``; one entry if the method is trained only once.

    Rates share a compiled program, unless it depends on the data: a complete training split needs
    no masks in its batch statistics, and the mean that fills a gap is part of the program.

    Raises:
      UserError: the configuration or the data cannot be used.
    """
    if trains_one_modality(variant.method):
        raise UserError(
            f"'{variant.label}' trains one modality at a time, so none can be missing: leave it "
            "out of --methods"
        )
    found: dict[float, Part] = {}
    programs: dict[Any, Program] = {}
    for rate in rates[:1] if trained_once() else rates:
        config = config_of(variant)
        if config.missing.rule == "none" and not config.missing.masks:
            config.missing.rule = "rate"
        if config.missing.rule == "six" or config.missing.masks:
            raise UserError(
                "--missing sets rates, and missing.rule=six and missing.masks use none: leave it "
                "out"
            )
        config.missing.test = rate
        if not trained_once():
            config.missing.train = rate
        resolved = fields.resolve(config)
        dataset = masked(resolved, load_dataset(resolved.dataset, resolved.modalities))
        program = build_program(resolved, dataset)  # compiles nothing yet
        masks = program.encoders.have_batch_statistics and not program.encoders.complete
        program = programs.setdefault((masks, rate if dataset.fill else None), program)
        folder = f"{variant.folder}-missing{rate:g}"
        if trained_once():
            folder = f"{variant.folder}-trained{config.missing.train:g}"
        found[rate] = Part(folder, config, program, dataset.fingerprint)
    return found


def train_row(
    variant: Variant,
    parts: Mapping[float, Part],
    rates: Sequence[float],
    seeds: Sequence[int],
    workdir: Any,
    progress: Progress,
) -> dict[str, Any]:
    """Trains what is not finished yet; returns one row of the comparison.

    Raises:
      NonFiniteLossError: a loss is not finite, or was not when a run was trained before.
    """
    require_finite(workdir / p.folder / f"seed{s}" for p in parts.values() for s in seeds)
    results: list[Mapping[str, Any]] = []
    folders: list[pathlib.Path] = []
    by_rate: dict[float, list[Figures]] = {rate: [] for rate in rates}
    for rate, part in parts.items():
        for seed in seeds:
            part.config.seed = seed
            path = workdir / part.folder / f"seed{seed}"
            run = train(part.config, path, part.program, say=lambda line: None)
            results.append(result_of(run))
            folders.append(path)
            if trained_once():
                for other, figures in _at_rates(run, rates).items():
                    by_rate[other].append(figures)
            else:
                by_rate[rate].append(_of_result(run))
            progress.say(path, results[-1])
    return _summary(variant, by_rate, results, folders)


def _of_result(run: Run) -> Figures:
    """The figures of a finished run at its own rate."""
    result = result_of(run)
    test = result["test"]
    return {
        "accuracy": {name: test[name] for name in test["macro_f1"]},
        "macro_f1": test["macro_f1"],
        "weighted_f1": test["weighted_f1"],
        "subsets": {k: v["accuracy"] for k, v in result.get("subsets", {}).items()},
        "true_rate": result["missing"]["true_rate"]["test"],
        CLASSES: (result["seed"], predictions.read_classes(run.workdir.predictions)),
    }


def _at_rates(run: Run, rates: Sequence[float]) -> dict[float, Figures]:
    """The figures of one run at other rates of the test split."""
    split: Any = run.dataset().splits["test"]  # masked, as every split of a sweep
    whole = split.unmasked
    subsets = {}
    if len(run.modalities) <= MOST_PATTERNS:
        subsets = {k: v["accuracy"] for k, v in run.subsets(whole).items()}
    evaluator, size, found = run.program.evaluator, run.config.evaluation.batch_size, {}
    for rate in rates:
        split = mask_split(whole, "test", run.config.missing, rate)
        figures = run.evaluate(split)
        found[rate] = {
            "accuracy": {name: figures[name] for name in figures["macro_f1"]},
            "macro_f1": figures["macro_f1"],
            "weighted_f1": figures["weighted_f1"],
            "subsets": subsets,
            "true_rate": missing_share(split),
            CLASSES: (run.config.seed, evaluator.classes(run.load(), split, size)),
        }
    return found


def _summary(
    variant: Variant,
    by_rate: Mapping[float, Sequence[Figures]],
    results: Sequence[Mapping[str, Any]],
    folders: Sequence[pathlib.Path],
) -> dict[str, Any]:
    """One row: for each rate, every figure as a list over the seeds."""

    def over_seeds(figures: Sequence[Figures]) -> dict[str, Any]:
        rows = [{k: v for k, v in f.items() if k not in ("true_rate", CLASSES)} for f in figures]
        listed = jax.tree.map(lambda *values: list(map(number, values)), *rows)
        return {**listed, "true_rate": figures[0]["true_rate"]}

    first = results[0]
    return {
        "label": variant.label,
        "method": variant.method,
        "switches": variant.switches,
        "fields": dict(variant.fields),
        "fidelity": first["fidelity"],
        "rates": {f"{rate:g}": over_seeds(figures) for rate, figures in by_rate.items()},
        "runs": [os.path.abspath(path) for path in folders],
        "seconds": [r["train"]["seconds"] + r["train"]["evaluate_seconds"] for r in results],
        "compile_seconds": sum(r["train"]["compile_seconds"] for r in results),
        "parameters": first["parameters"],
        "stages": first["train"]["stages"],
        CLASSES: {f"{rate:g}": [f[CLASSES] for f in figures] for rate, figures in by_rate.items()},
    }


def statistics_by_rate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``{rate: statistics.of_classes}``; removes the runs' predictions from the rows."""
    classes = {row["label"]: row.pop(CLASSES) for row in rows}
    found = {}
    for rate in rows[0]["rates"]:
        at_rate = {label: of_row[rate] for label, of_row in classes.items()}
        whole = {l: runs for l, runs in at_rate.items() if all(told for _, told in runs)}
        without = {l: statistics.NO_PREDICTIONS for l in at_rate if l not in whole}
        found[rate] = statistics.of_classes(whole, without)
    return found
