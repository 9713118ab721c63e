"""The content of ``result.json``."""

import pathlib
import platform
import subprocess
from typing import Any

import jax
import numpy as np

import mla_jax
from mla_jax.data import missing
from mla_jax.data.pipeline import batches_per_epoch
from mla_jax.datasets import Dataset
from mla_jax.evaluate.shapley import shapley_values
from mla_jax.program import Program, training_flops
from mla_jax.runs.run import Run


def missing_facts(run: Run, dataset: Dataset) -> dict[str, Any]:
    """The part of a result about masks that hide modalities; empty if there are none."""
    chosen = run.config.missing
    if chosen.rule == "none" and not chosen.masks:
        return {}
    shares = {s: missing.missing_share(split) for s, split in dataset.splits.items()}
    facts: dict[str, Any] = {"missing": {**chosen.to_dict(), "true_rate": shares}}
    if len(dataset.modalities) <= missing.MOST_PATTERNS:
        facts["subsets"] = run.subsets(dataset.splits["test"])
    return facts


def contribution_facts(
    run: Run, dataset: Dataset, subsets: dict[str, Any] | None
) -> dict[str, Any]:
    """How much each modality adds to the test accuracy; empty for a run without telemetry.

    Shapley values, which sum to the accuracy with all modalities minus that of predicting only the
    most frequent class.  Only for test data with all modalities (before masks): otherwise subsets
    would be over different examples.  ``subsets``: the test split's figures, if they are known.
    """
    test = dataset.splits["test"]
    whole = getattr(test, "unmasked", test)
    many = len(dataset.modalities) > missing.MOST_PATTERNS
    if not run.config.telemetry.every_steps or many or not whole.present.all():
        return {}
    subsets = subsets or run.subsets(test)
    accuracies = {name: found["accuracy"] for name, found in subsets.items()}
    commonest = max(np.bincount(whole.label).tolist()) / whole.examples
    return {"contributions": shapley_values(dataset.modalities, accuracies, commonest)}


def without_counts(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of one split without the confusion counts, which go to ``confusion.json``."""
    return {key: value for key, value in figures.items() if key != "confusion"}


def result_of(run: Run, program: Program, parameters: int) -> dict[str, Any]:
    """The content of ``result.json``."""
    config, spent, chosen = run.config, run.seconds.spent, run.selector.chosen
    assert chosen is not None  # every run evaluates its last epoch
    stages, available = program.method.stages, run.data.training_examples
    epochs = sum(stage.epochs for stage in stages)
    per_epoch = batches_per_epoch(available, config.batch_size, config.drop_last)
    examples = epochs * min(per_epoch * config.batch_size, available)
    return {
        "dataset": run.data.name,
        "method": config.method.name,
        "fidelity": config.method.fidelity,
        "protocol": config.protocol,
        "seed": config.seed,
        "modalities": list(config.modalities),
        "parameters": parameters,
        "selection": {"rule": run.selector.rule, **{k: chosen[k] for k in ("epoch", "step")}},
        **{s: without_counts(chosen[s]) for s in run.data.examples if s != "train"},
        "train": {
            "epochs": epochs,
            "stages": {stage.name: stage.epochs for stage in stages},
            "batches": epochs * per_epoch,
            "steps": sum(s.epochs * len(s.single_phases) for s in stages) * per_epoch,
            "flops": training_flops(program, per_epoch),
            "seconds": round(spent["train"], 3),
            "examples_per_second": round(examples / max(spent["train"], 1e-9), 4),
            "compile_seconds": round(spent["compile"], 3),
            "evaluate_seconds": round(spent["evaluate"], 3),
            "checkpoint_seconds": round(spent["checkpoint"], 3),
            "telemetry_seconds": round(spent["telemetry"], 3),
        },
        "versions": {
            "mla_jax": mla_jax.__version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "commit": source_commit(),
    }


def source_commit() -> str:
    """The commit of the running source, with ``-dirty`` if it was changed since; empty if
    mla_jax is installed without its repository."""
    folder = pathlib.Path(mla_jax.__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")) != folder.parent.resolve():
            return ""
        return git("describe", "--always", "--dirty", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return ""
