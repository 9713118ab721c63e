"""Milliseconds of a training step, method beside method, on one batch of the real data."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mla_jax.benchmark import timing
from mla_jax.config import fields, files
from mla_jax.data import pipeline
from mla_jax.datasets import load_dataset
from mla_jax.functional.optimizers import StepInfo
from mla_jax.program import Program, build_program, initial_state, masked

HEADER = ("method", "phases", "ms", "ratio", "examples/s", "compile s")
CAPTION = (
    "One batch through all phases of a method: forward, backward, optimiser, augmentation where "
    "the data set has one. Median of {rounds} batches, methods in turn; ratio: to the first."
)


def measure(
    filename: str,
    methods: Sequence[str],
    rounds: int = 20,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """One row per method of the configuration ``filename``: ``FILE`` or ``FILE:name=value,...``."""
    plan, contenders, rows = [], {}, []
    for name in methods:  # mistakes come out before the first is compiled
        config = fields.resolve(files.load_config(filename, arguments={"method": name}))
        dataset = masked(config, load_dataset(config.dataset, config.modalities))
        pipeline.batches_per_epoch(dataset.training_examples, config.batch_size, config.drop_last)
        plan.append((name, config, dataset, build_program(config, dataset)))
    for name, config, dataset, program in plan:
        say(f"compiling {name} ...")
        contenders[name] = step = _step(config, dataset, program)
        step(), step()  # the first compiles
        dispatches = program.dispatches.values()
        rows.append(
            {
                "method": name,
                "phases": len(program.method.stages[0].phases),
                "batch_size": config.batch_size,
                "compile_seconds": sum(d.compile_seconds for d in dispatches),
            }
        )
    found = timing.medians(timing.in_turns(contenders, rounds))
    first = found[methods[0]]
    for row in rows:
        seconds = found[row["method"]]
        row |= {"milliseconds": 1000 * seconds, "ratio": seconds / first}
        row["examples_per_second"] = row["batch_size"] / seconds
    return rows


def _step(config: Any, dataset: Any, program: Program) -> Callable[[], float]:
    """Steps a state of its own through one batch and returns the seconds that took."""
    train_batch = stepper(config, dataset, program)

    def step() -> float:
        started = time.perf_counter()
        train_batch(True)
        return time.perf_counter() - started

    return step


CLOCK = StepInfo(*map(np.int32, (0, 0, 10)))
"""At the start of an epoch of ten batches; what it says changes no time."""


def stepper(
    config: Any, dataset: Any, program: Program, on_device: bool = False
) -> Callable[[bool], None]:
    """``train_batch(wait)``: all phases of the first stage on one batch, always the same one.

    With ``wait`` it returns when the device is done.  ``on_device``: the batch lies there already.
    """
    split = dataset.splits["train"]
    batches = pipeline.training_batches(split, config.batch_size, config.seed)
    batch = program.placement.shard(next(batches))
    batches.close()
    if on_device:
        batch = jax.device_put(batch, program.placement.sharded)
    stage = program.method.stages[0]
    dispatch = program.dispatches[stage.name]
    held = [initial_state(program, dataset, config.seed)]

    def train_batch(wait: bool) -> None:
        state = held.pop()
        for number in range(len(stage.phases)):
            state, metrics = dispatch(number, state, batch, CLOCK)
        if wait:
            jax.block_until_ready((state, metrics))
        held.append(state)

    return train_batch


def cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The rows as they are printed."""
    return [
        [
            row["method"],
            str(row["phases"]),
            f"{row['milliseconds']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['examples_per_second']:.0f}",
            f"{row['compile_seconds']:.1f}",
        ]
        for row in rows
    ]
