"""What is compiled: a method on the inputs of its data set, its optimiser and its evaluation."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from mla_jax import distributed
from mla_jax.data.dataset import Dataset, DataSpec, Transform
from mla_jax.data.transform import create_transform
from mla_jax.dispatch import Dispatch
from mla_jax.encoders import Encoders, create_encoders
from mla_jax.evaluate import Evaluator
from mla_jax.functional.optimizers import Optimizer, create_optimizer
from mla_jax.methods import Method, Task, create_method
from mla_jax.methods.base import Phase, Stage
from mla_jax.state import Batch, TrainState


class Program(NamedTuple):
    """What is compiled: it depends on the configuration but not on the seed."""

    encoders: Encoders
    method: Method
    optimizer: Optimizer
    dispatches: dict[str, Dispatch]
    """``{stage name: its phases}``."""
    evaluator: Evaluator
    placement: distributed.DataParallel


def build_program(
    config: FrozenConfigDict,
    data: Dataset | DataSpec,
    devices: Sequence[jax.Device] | None = None,
) -> Program:
    """The method of a resolved configuration, on all devices or on the ones given.

    ``data`` is the data set, or what a run has recorded of it (``data.json``): enough to predict.
    """
    placement = distributed.data_parallel(config.batch_size, devices)
    encoders = create_encoders(
        config.encoders, config.modalities, config.feature_dim, jnp.dtype(config.compute_dtype)
    )
    optimizer = create_optimizer(config.optimizer, config.epochs)
    task = Task(data.classes, config.epochs, data.training_examples)
    method = create_method(config.method, encoders, optimizer, task)
    streams = encoders.fitted(data.streams)
    method = with_transform(method, create_transform(streams, data.modalities))
    dispatches = {s.name: Dispatch([p.update for p in s.phases]) for s in method.stages}
    return Program(encoders, method, optimizer, dispatches, Evaluator(method, devices), placement)


def initial_state(program: Program, dataset: Dataset, seed: int) -> TrainState:
    """A fresh state, on every device.

    Each process computes it there; ``device_put`` would compare every array across processes.
    """
    sample = dataset.splits["train"].fetch(np.arange(1))
    init = jax.jit(program.method.init, out_shardings=program.placement.replicated)
    return init(jax.random.key(seed), sample)


def with_transform(method: Method, transform: Transform | None) -> Method:
    """``method`` on ``transform(batch, train)`` in place of ``batch["inputs"]``, everywhere.

    Augmented in every phase; in evaluation mode in ``init``, in ``predict`` and where ``on_epoch``
    reduces over the training examples.  A modality that a phase does not read costs nothing: XLA
    drops its transform.
    """
    if transform is None:
        return method

    def prepared(batch: Batch, train: bool) -> Batch:
        return {**batch, "inputs": transform(batch, train)}

    def after(function: Callable, position: int, train: bool) -> Callable:
        """``function`` with the batch that is its argument number ``position`` prepared."""

        @functools.wraps(function)
        def composed(*arguments: Any) -> Any:
            batch = prepared(arguments[position], train)
            return function(*arguments[:position], batch, *arguments[position + 1 :])

        return composed

    # One result per function: what was compiled for it is found again in the next epoch.
    evaluating = functools.cache(lambda accumulate: after(accumulate, 2, train=False))

    def on_epoch(original: Callable, state: Any, epoch: int, reduce_training: Callable) -> Any:
        def reduce_prepared(accumulate: Callable, *rest: Any) -> Any:
            return reduce_training(evaluating(accumulate), *rest)

        return original(state, epoch, reduce_prepared)

    def stage(original: Stage) -> Stage:
        phases = (Phase(p.name, after(p.update, 1, train=True)) for p in original.phases)
        changes: dict[str, Any] = {"phases": tuple(phases)}
        if original.on_epoch:
            changes["on_epoch"] = functools.partial(on_epoch, original.on_epoch)
        return original._replace(**changes)

    return method._replace(
        init=after(method.init, 1, train=False),
        stages=tuple(map(stage, method.stages)),
        predict=after(method.predict, 1, train=False),
    )
