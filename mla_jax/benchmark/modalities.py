"""What M modalities cost and how balanced they stay, for several M and several methods.

    python -m mla_jax.benchmark.modalities

measures one row, in a process of its own, so that its memory and what it compiles are its own: the
standard input has a ``Spec`` as JSON, and the standard output gets the row.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mla_jax.backend import allocation
from mla_jax.benchmark import step, timing
from mla_jax.benchmark.contender import largest_size
from mla_jax.compare.variants import parse_variant
from mla_jax.config import fields
from mla_jax.data import pipeline
from mla_jax.data.dataset import ArraySplit, Dataset
from mla_jax.errors import UserError
from mla_jax.functional.optimizers import StepInfo
from mla_jax.program import Program, build_program, initial_state

CLASSES, FEATURES = 10, 16
SIZES = {"train": 2048, "test": 2048}
STRONGEST, WEAKEST = 0.5, 0.1
"""Of the class's pattern, whose numbers have a deviation of 1, as the noise has."""
SETTINGS = {
    "feature_dim": 32,
    "batch_size": 64,
    "compute_dtype": "float32",
    "optimizer.learning_rate": 0.02,
}
DEFAULT = "mla,mla:schedule=fused,late_fusion,concat"
METHODS = ("mla", "late_fusion", "concat", "sum", "ensemble", "ogm", "ogm_ge")
"""Those that take any number of modalities, in one stage."""
HEADER = (
    "M", "method", "programs", "compile, s", "CPU s", "init, CPU s", "evaluation, CPU s",
    "step, ms", "CPU ms", "memory, MB", "fused", "modality: mean", "min", "max",
)  # fmt: skip
CAPTION = (
    "Vectors of {features} numbers, {classes} classes, the same encoder for every modality, from "
    "strong to weak. Compile: tracing and compiling the training step. Init: its first call. "
    "Evaluation: how much longer the first call takes than the second. Step: a batch through all "
    "phases, median of {rounds}. Memory: of the process at its peak, compilation included. "
    "Accuracies after {epochs} epochs, mean of {seeds} seeds."
)


class Spec(NamedTuple):
    """What a row measures."""

    method: str
    """As ``mla`` or ``mla:schedule=fused``."""
    count: int  # type: ignore[assignment]  # hides tuple.count
    """M, how many modalities."""
    epochs: int
    seeds: int
    """Runs to take accuracies of."""
    rounds: int
    """Batches to time."""


def dataset_of(count: int) -> Dataset:
    """``count`` vectors of decreasing strength; everything follows from ``count``.

    An example's vector is its class's pattern times the strength of the modality, plus noise.  The
    strengths fall by equal ratios from ``STRONGEST`` to ``WEAKEST``, so their mean hardly depends
    on how many there are.
    """
    rng = np.random.default_rng(count)
    names = tuple(f"m{number:03d}" for number in range(count))
    strengths = np.geomspace(STRONGEST, WEAKEST, count)
    patterns = rng.normal(size=(count, CLASSES, FEATURES)) * strengths[:, None, None]
    splits = {}
    for part, examples in SIZES.items():
        label = rng.permutation(np.arange(examples) % CLASSES).astype(np.int32)
        vectors = patterns[:, label] + rng.normal(size=(count, examples, FEATURES))
        inputs = dict(zip(names, vectors.astype(np.float32), strict=True))
        splits[part] = ArraySplit(inputs, label, np.ones((examples, count), bool))
    classes = tuple(map(str, range(CLASSES)))
    return Dataset("many", names, classes, splits, f"many-{count}")


def config_of(spec: Spec, modalities: Sequence[str]) -> Any:
    """The resolved configuration of a row."""
    config = fields.base_config()
    config.modalities = tuple(modalities)
    config.encoders = {m: {"name": "mlp"} for m in modalities}
    variant = parse_variant(spec.method)
    config.method = fields.method_block(variant.method)
    config.epochs = spec.epochs
    switches = {f"method.{name}": value for name, value in variant.switches.items()}
    fields.override(config, {**SETTINGS, **switches})
    return fields.resolve(config)


def measure_one(spec: Spec) -> dict[str, Any]:
    """One row: seconds, milliseconds, bytes, and accuracies in [0, 1]."""
    dataset = dataset_of(spec.count)
    config = config_of(spec, dataset.modalities)
    program = build_program(config, dataset, jax.devices()[:1])
    state, init = _timed(lambda: jax.block_until_ready(initial_state(program, dataset, 0)))
    twice = [_timed(lambda: _accuracies(program, state, dataset))[1] for _ in range(2)]
    evaluation = {key: twice[0][key] - twice[1][key] for key in twice[0]}
    train_batch = step.stepper(config, dataset, program, on_device=True)
    _, compiling = _timed(lambda: train_batch(True))
    train_batch(True)
    rounds = [_timed(lambda: train_batch(True))[1] for _ in range(spec.rounds)]
    middle = timing.medians({key: [1000 * r[key] for r in rounds] for key in ("wall", "cpu")})
    found = [_trained(program, config, dataset, seed) for seed in range(spec.seeds)]
    (stage,) = program.method.stages
    dispatch, device = program.dispatches[stage.name], jax.devices()[0]
    return {
        **spec._asdict(),
        "programs": dispatch.programs,
        "compile": {"seconds": dispatch.compile_seconds, "cpu": compiling["cpu"]},
        "init": init,
        "evaluation": evaluation,
        "step": {**middle, "minimum": 1000 * min(r["wall"] for r in rounds)},
        "memory": largest_size(),
        "device_memory": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        "accuracy": found,
    }


def _timed(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What a function returns, and the seconds that it took: on the wall, and of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = function()
    return found, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _trained(program: Program, config: Any, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Accuracies on the test split after the last epoch of a run."""
    split, state = dataset.splits["train"], initial_state(program, dataset, seed)
    per_epoch = pipeline.batches_per_epoch(split.examples, config.batch_size, config.drop_last)
    batches = pipeline.training_batches(split, config.batch_size, seed)
    (stage,) = program.method.stages
    for number in range(per_epoch * stage.epochs):
        batch = program.placement.shard(next(batches))
        info = StepInfo(*map(np.int32, (*divmod(number, per_epoch), per_epoch)))
        for index in range(len(stage.phases)):
            state, _ = program.dispatches[stage.name](index, state, batch, info)
    batches.close()
    return _accuracies(program, state.apart(), dataset)


def _accuracies(program: Program, state: Any, dataset: Dataset) -> dict[str, Any]:
    """``{"fused": x, "modalities": [x, ...]}``, strongest first."""
    figures = program.evaluator(state, dataset.splits["test"], 256)
    return {"fused": figures["fused"], "modalities": [figures[m] for m in dataset.modalities]}


def measure(specs: Sequence[Spec], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows, each measured in its own process, one after the other.

    Raises:
      UserError: a process failed.
    """
    rows = []
    for spec in specs:
        say(f"{spec.method} with {spec.count} modalities ...")
        rows.append(in_process(spec))
    return rows


def in_process(spec: Spec) -> dict[str, Any]:
    """``measure_one`` in a process that has compiled nothing yet."""
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(spec._asdict()),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise UserError(
            f"{spec.method} with {spec.count} modalities ended with status {done.returncode} "
            f"({'; '.join(last)}): fix that, or leave it out"
        )
    return json.loads(done.stdout.splitlines()[-1])


def cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The rows as they are printed."""
    return [
        [
            str(row["count"]),
            row["method"],
            str(row["programs"]),
            f"{row['compile']['seconds']:.1f}",
            f"{row['compile']['cpu']:.1f}",
            f"{row['init']['cpu']:.1f}",
            f"{row['evaluation']['cpu']:.1f}",
            f"{row['step']['wall']:.2f}",
            f"{row['step']['cpu']:.2f}",
            f"{row['memory'] / 1e6:.0f}",
            *(f"{value:.3f}" for value in summary(row).values()),
        ]
        for row in rows
    ]


def summary(row: dict[str, Any]) -> dict[str, float]:
    """Means over the seeds: of the fusion, and of the modalities' mean, minimum and maximum."""
    found = row["accuracy"]
    mean = {"fused": float(np.mean([one["fused"] for one in found]))}
    for name, over in (("mean", np.mean), ("min", np.min), ("max", np.max)):
        mean[name] = float(np.mean([over(one["modalities"]) for one in found]))
    return mean


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)
    allocation.keep_freed_memory()  # as in training
    print(json.dumps(measure_one(Spec(**json.load(sys.stdin)))))
