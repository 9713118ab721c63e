"""Our method of one column with the published settings of one stage, and three steps of it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mla_jax.config import fields
from mla_jax.encoders import Encoders
from mla_jax.functional.optimizers import StepInfo, create_optimizer, learning_rate_schedule
from mla_jax.methods import Task, create_method
from mla_jax.parity import missing_rows, rows
from mla_jax.parity.cases import nested
from mla_jax.parity.columns import Column
from mla_jax.parity.formula import Tensors
from mla_jax.parity.missing import STEPS
from mla_jax.parity.ours.compiled import gradients, recording
from mla_jax.state import Batch, TrainState


class OneStage:
    """Stage ``number`` of our method, whose optimiser has the published settings."""

    def __init__(
        self,
        column: Column,
        encoders: Encoders,
        task: Task,
        settings: Mapping[str, Any],
        number: int = 0,
    ):
        """``settings``: ``lr``, ``betas``, ``weight_decay`` and, where there is one, ``clip``."""
        config = fields.base_config().optimizer
        config.update(
            name="adam",
            schedule="constant",
            learning_rate=float(settings["lr"]),
            beta1=float(settings["betas"][0]),
            weight_decay=float(settings["weight_decay"]),
            clip_norm=float(settings.get("clip", 0)),
        )
        self.config = config
        optimizer = create_optimizer(config, task.epochs).after(recording("applied"))
        self.encoders, self.task = encoders, task
        self.switches = column.resolved()
        self.method = create_method(self.switches, encoders, optimizer, task)
        self.stage = self.method.stages[number]

    @property
    def on_epoch(self) -> Any:
        """What the stage does on the host before an epoch, which every stage here does."""
        return self.stage.on_epoch

    def state(self, tensors: Tensors, batch: Batch) -> TrainState:
        """A fresh training state with these weights, in the inputs' precision; all else is 0."""
        kind = next(iter(batch["inputs"].values())).dtype

        def fresh(x: jax.ShapeDtypeStruct) -> jax.Array:
            return jnp.zeros(x.shape, kind if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype)

        shapes = jax.eval_shape(self.method.init, jax.random.key(0), batch)
        empty = jax.tree.map(fresh, shapes)
        flat = traverse_util.flatten_dict(empty.variables, sep="/", keep_empty_nodes=True)
        known = {n: v for n, v in tensors.items() if n.startswith(("params/", "batch_stats/"))}
        if strange := known.keys() - flat.keys():
            raise ValueError(f"our {self.method.name} has no {sorted(strange)}")
        variances = {n: jnp.ones_like(v) for n, v in flat.items() if n.endswith("/var")}
        params, stats = nested(flat | variances | known)
        return empty.replace(params=params, batch_stats=stats)

    def train(
        self, state: TrainState, batch: Batch, ending: str = ""
    ) -> tuple[TrainState, Tensors]:
        """Three steps on the one batch: losses, first gradients, parameters afterwards."""
        (phase,) = self.stage.phases
        update, found = jax.jit(phase.update), {}
        for step in range(1, STEPS + 1):
            state, metrics = update(state, batch, StepInfo(*map(np.int32, (0, step - 1, STEPS))))
            found[f"loss{ending}{rows.later(step)}/batch {step} total"] = metrics["loss"]
            if step == 1:
                found |= missing_rows.gradients(gradients(state, "applied"), ending)
        flat = traverse_util.flatten_dict(state.params, sep="/")
        return state, found | rows.with_prefix(flat, f"parameters after {STEPS}{ending}/params/")

    def learning_rates(self, found: Tensors, ending: str = "") -> Tensors:
        """Of ``schedule=linear`` in each epoch, where the published is that one."""
        if (row := f"learning rates{ending}/") not in found:
            return {}
        self.config.schedule, epochs = "linear", len(found[row])
        rate = learning_rate_schedule(self.config, epochs)
        return {row: np.array([rate(StepInfo(epoch, 0, 1)) for epoch in range(epochs)])}

    def evaluate(self, variables: Any, batch: Batch) -> jax.Array:
        """The joint logits of a trained model."""
        return jax.jit(self.method.predict)(variables, batch).joint


def reducer(batch: Batch) -> Callable[..., Any]:
    """``reduce_training`` over a training set of one batch."""

    def reduce_training(accumulate: Any, variables: Any, carry: Any) -> Any:
        return jax.jit(accumulate)(variables, carry, batch)

    return reduce_training


def given(found: Tensors, stage: str) -> Tensors:
    """What both sides start from in a stage: inputs, weights in our names, and settings."""
    return rows.without_prefix(found, f"{rows.INITIAL}{stage}/")


def in_precision(tensors: Tensors, dtype: Any) -> Tensors:
    """All floating-point tensors in ``dtype``: fixtures hold some of float64 in float32."""
    kinds = {n: np.asarray(v) for n, v in tensors.items()}
    return {
        n: v.astype(dtype) if np.issubdtype(v.dtype, np.floating) else v for n, v in kinds.items()
    }


@functools.cache
def ones(*shape: int) -> np.ndarray:
    """``bool[shape]``, all True."""
    return np.ones(shape, bool)
