"""Evaluation: every example counted exactly once, on any number of devices.

Confusion counts are summed over the devices and leave them as integers; every figure is computed
from the sums, with one division at the end.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mla_jax import distributed
from mla_jax.data.dataset import Split
from mla_jax.data.pipeline import evaluation_batches
from mla_jax.methods import Method
from mla_jax.methods.base import Accumulate
from mla_jax.state import Batch, TrainState


class Outputs(NamedTuple):
    """What a method says of one batch."""

    fused: jax.Array
    """Logits ``float32[B, C]``."""
    unimodal: jax.Array
    """Logits ``float32[M, B, C]``."""
    weights: jax.Array | None
    """``Method.weigh``: ``float32[B, M]``, or None."""


Counts = Callable[[dict[str, Any], Any, Batch], jax.Array]


def outputs(method: Method) -> Callable[[dict[str, Any], Any, Batch], Outputs]:
    """The pure function behind prediction: ``(variables, method_state, batch) -> Outputs``."""

    def compute(variables: dict[str, Any], method_state: Any, batch: Batch) -> Outputs:
        prediction = method.predict(variables, batch)
        present = batch["present"] & batch["valid"][:, None]
        fused = method.fuse(prediction, present, method_state)
        weights = method.weigh(prediction, present, method_state) if method.weigh else None
        return Outputs(fused, prediction.unimodal, weights)

    return compute


def confusion_counts(method: Method) -> Counts:
    """The pure function behind evaluation: ``(variables, method_state, batch) -> counts``.

    ``counts: int32[1 + M, C, C]``, fused first, then each modality over the examples that have
    it; row = label, column = prediction.
    """
    compute = outputs(method)

    def counts(variables: dict[str, Any], method_state: Any, batch: Batch) -> jax.Array:
        found = compute(variables, method_state, batch)
        present = batch["present"] & batch["valid"][:, None]
        predicted = jnp.concatenate([found.fused[None], found.unimodal]).argmax(-1)
        counted = jnp.concatenate([batch["valid"][None], present.T]).astype(jnp.int32)
        zeros = jnp.zeros((method.classes, method.classes), jnp.int32)
        return jax.vmap(lambda p, n: zeros.at[batch["label"], p].add(n))(predicted, counted)

    return counts


class Evaluator:
    """A pmapped ``confusion_counts`` over the local devices of every process."""

    def __init__(self, method: Method, devices: Sequence[jax.Device] | None = None):
        self.modalities = method.modalities
        self._devices = list(devices) if devices else jax.local_devices()
        counts = confusion_counts(method)
        self._counts = jax.pmap(
            lambda *arguments: jax.lax.psum(counts(*arguments), "data"),
            axis_name="data",
            in_axes=(None, None, 0),
            out_axes=None,
            devices=devices,
        )

    def __call__(self, state: TrainState, split: Split, batch_size: int) -> dict[str, Any]:
        """Accuracy, macro-F1 and confusion counts over a split; ``batch_size`` is per device."""
        total = 0
        where = distributed.process()
        for batch in evaluation_batches(split, batch_size, len(self._devices), *where):
            total = total + np.asarray(
                self._counts(state.variables, state.method_state, batch), np.int64
            )
        return summarize(total, self.modalities)


class TrainingReduction:
    """Reduces over every training example once, in evaluation mode: ``methods.ReduceTraining``.

    The global batches are the same for any number of processes; the last one is padded.
    """

    def __init__(self, split: Split, batch_size: int, placement: distributed.DataParallel):
        self._split, self._batch_size, self._placement = split, batch_size, placement

    def __call__(self, accumulate: Accumulate, variables: dict[str, Any], carry: Any) -> Any:
        where = distributed.process()
        accumulate, carry = jax.jit(accumulate), self._placement.replicate(carry)
        for batch in evaluation_batches(self._split, self._batch_size // where[1], 1, *where):
            local = jax.tree.map(lambda array: array[0], batch)
            carry = accumulate(variables, carry, self._placement.shard(local))
        return carry


def summarize(confusion: np.ndarray, modalities: Sequence[str]) -> dict[str, Any]:
    """``{"fused": accuracy, <modality>: accuracy, "examples", "macro_f1", "confusion"}``.

    ``confusion: int[1 + M, C, C]``.  Accuracies and F1 are fractions in [0, 1]; the accuracy of a
    modality that no example has is NaN.  Macro-F1 averages over the classes that occur as label
    or as prediction, like scikit-learn.
    """
    names = ("fused", *modalities)
    return {
        **{name: accuracy(counts) for name, counts in zip(names, confusion, strict=True)},
        "examples": int(confusion[0].sum()),
        "macro_f1": {n: macro_f1(counts) for n, counts in zip(names, confusion, strict=True)},
        "confusion": {n: counts.tolist() for n, counts in zip(names, confusion, strict=True)},
    }


def accuracy(confusion: np.ndarray) -> float:
    """Share of correct predictions in ``confusion: int[C, C]``; NaN without examples."""
    total = int(confusion.sum())
    return int(np.trace(confusion)) / total if total else float("nan")


def macro_f1(confusion: np.ndarray) -> float:
    """Unweighted mean of the F1 of each class that occurs; NaN without examples."""
    hits = np.diagonal(confusion)
    occurrences = confusion.sum(0) + confusion.sum(1)
    occurs = occurrences > 0
    return float(np.mean(2 * hits[occurs] / occurrences[occurs])) if occurs.any() else float("nan")
