"""The last stage of the correlation methods: a linear SVM on the codes of all training examples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mla_jax.functional.svm import linear_svm
from mla_jax.methods.base import ReduceTraining, Task
from mla_jax.state import Batch, TrainState

Codes = Callable[[dict[str, Any], Batch], jax.Array]
"""``(variables, batch) -> float32[B, K]``, in evaluation mode; missing entries are filled."""


def svm_stage(
    codes: Codes, task: Task, cost: float
) -> Callable[[TrainState, ReduceTraining], TrainState]:
    """``(state, reduce_training) -> state`` with the head ``svm`` solved.

    The codes of the training set are collected in a table ``[task.examples, K]``, each in the row
    of its example, so that the batches do not matter.
    """

    def accumulate(variables: dict[str, Any], carry: Any, batch: Batch) -> Any:
        table, label = carry
        # Rows of padding belong to no example.  Every row is written once, so adding writes it.
        row = jnp.where(batch["valid"], batch["index"], task.examples)
        return (
            table.at[row].add(codes(variables, batch), mode="drop"),
            label.at[row].add(batch["label"], mode="drop"),
        )

    def solve(state: TrainState, reduce_training: ReduceTraining) -> TrainState:
        width = len(state.params["head"]["svm"]["kernel"])
        empty = jnp.zeros((task.examples, width)), jnp.zeros(task.examples, jnp.int32)
        table, label = jax.device_get(reduce_training(accumulate, state.variables, empty))
        return with_heads(state, svm=linear_svm(table, label, task.classes, cost))

    return solve


def with_heads(state: TrainState, **heads: Any) -> TrainState:
    """``state`` with these heads, on the devices and with the types of the old ones."""

    def place(value: np.ndarray, old: jax.Array) -> jax.Array:
        value = np.asarray(value, old.dtype)
        return jax.make_array_from_callback(old.shape, old.sharding, lambda index: value[index])

    old = state.params["head"]
    placed = {name: jax.tree.map(place, value, old[name]) for name, value in heads.items()}
    return state.replace(params={**state.params, "head": {**old, **placed}})
