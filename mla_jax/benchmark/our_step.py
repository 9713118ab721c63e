"""Our side of ``benchmark step --against=torch``."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from mla_jax.backend import allocation
from mla_jax.benchmark import step
from mla_jax.benchmark.contender import Contender, Spec, random_batch
from mla_jax.compare.variants import parse_variant
from mla_jax.config import fields, files
from mla_jax.data.dataset import ArraySplit, Dataset
from mla_jax.program import Program, build_program


def config_of(filename: str, entry: str, **changes: Any) -> FrozenConfigDict:
    """The resolved configuration of an entry."""
    variant = parse_variant(entry)
    overrides = {f"method.{name}": value for name, value in variant.switches.items()}
    arguments = {"method": variant.method}
    return fields.resolve(files.load_config(filename, {**overrides, **changes}, arguments))


def build(spec: Spec, compiled_for: str = "") -> tuple[FrozenConfigDict, Dataset, Program]:
    """The configuration, a data set of one random batch, and the program of an entry."""
    config = config_of(spec.config, spec.name, batch_size=spec.batch_size)
    dataset = random_dataset(spec)
    return config, dataset, build_program(config, dataset, jax.devices()[:1], compiled_for)


def random_dataset(spec: Spec) -> Dataset:
    """Arrays as a training step has them after augmentation: float32, channels last."""
    inputs, label = random_batch(spec)
    split = ArraySplit(inputs, label, np.ones((spec.batch_size, len(inputs)), bool))
    names = tuple(map(str, range(spec.classes)))
    return Dataset("random", tuple(inputs), names, {"train": split, "test": split}, "random")


def prepare(spec: Spec) -> Contender:
    """A step of ours, on the first device."""
    allocation.keep_freed_memory()  # as the commands do
    config, dataset, program = build(spec)
    train_batch = step.stepper(config, dataset, program, on_device=True)
    device = jax.devices()[0]

    def train(batches: int) -> None:
        for number in range(batches):
            train_batch(number == batches - 1)

    def device_memory() -> int | None:
        return (device.memory_stats() or {}).get("peak_bytes_in_use")

    def about() -> dict[str, Any]:
        return {
            "version": f"jax {jax.__version__}",
            "device": device.device_kind,
            "dtype": config.compute_dtype,
            "compile": sum(d.compile_seconds for d in program.dispatches.values()),
            "bytes": sum(d.bytes_accessed or 0 for d in program.dispatches.values()) or None,
        }

    return Contender(train, about, device_memory)


def flops(spec: Spec) -> float:
    """Floating-point operations of one batch, counted in the programs before XLA changes them.

    The same for whoever computes it, so that it can be divided by anybody's seconds.  Phases are
    lowered by themselves: before XLA folds the switch of ``Dispatch``, each has all branches.
    """
    _, dataset, program = build(spec, "tpu")  # without what a CPU adds to convolutions
    batch = dataset.splits["train"].fetch(np.arange(spec.batch_size))
    state: Any = jax.eval_shape(program.method.init, jax.random.key(0), batch)
    (stage,) = program.method.stages
    counted: Iterator[Any] = (
        jax.jit(phase.update).lower(state, batch, step.CLOCK).cost_analysis()
        for phase in stage.phases
    )
    return float(sum(found["flops"] for found in counted))
