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
from mla_jax.errors import UserError
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


class Counts(NamedTuple):
    """Sums over the examples of a batch."""

    confusion: Any
    """``int32[1 + M, C, C]``, fused first, then each modality over the examples that have it; row =
    label, column = prediction."""
    bad_inputs: Any
    """``int32[M]``: examples whose input of that modality holds NaN or infinity."""
    bad_logits: Any
    """``int32[1 + M]``: examples with a logit that is NaN or infinite, fused first."""


def outputs(method: Method) -> Callable[[dict[str, Any], Any, Batch], Outputs]:
    """The pure function behind prediction: ``(variables, method_state, batch) -> Outputs``."""

    def compute(variables: dict[str, Any], method_state: Any, batch: Batch) -> Outputs:
        prediction = method.predict(variables, batch)
        present = batch["present"] & batch["valid"][:, None]
        fused = method.fuse(prediction, present, method_state)
        weights = method.weigh(prediction, present, method_state) if method.weigh else None
        return Outputs(fused, prediction.unimodal, weights)

    return compute


def confusion_counts(method: Method) -> Callable[[dict[str, Any], Any, Batch], Counts]:
    """The pure function behind evaluation: ``(variables, method_state, batch) -> Counts``."""
    compute = outputs(method)

    def counts(variables: dict[str, Any], method_state: Any, batch: Batch) -> Counts:
        found = compute(variables, method_state, batch)
        present = batch["present"] & batch["valid"][:, None]
        logits = jnp.concatenate([found.fused[None], found.unimodal])
        counted = jnp.concatenate([batch["valid"][None], present.T])
        zeros = jnp.zeros((method.classes, method.classes), jnp.int32)
        confusion = jax.vmap(lambda p, n: zeros.at[batch["label"], p].add(n))(
            logits.argmax(-1), counted.astype(jnp.int32)
        )
        finite = jnp.stack([_finite(batch["inputs"][m]) for m in method.modalities])
        return Counts(
            confusion,
            bad_inputs=(~finite & present.T).sum(1),
            bad_logits=(~jnp.isfinite(logits).all(-1) & counted).sum(1),
        )

    return counts


def _finite(array: jax.Array) -> jax.Array:
    """``bool[B]``: whether all numbers of an example are."""
    return jnp.isfinite(array).all(tuple(range(1, array.ndim)))


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

    def __call__(
        self, state: TrainState, split: Split, batch_size: int, name: str = ""
    ) -> dict[str, Any]:
        """Accuracy, macro-F1 and confusion counts over a split; ``batch_size`` is per device.

        Where logits are not finite, ``not_finite`` says of how many examples: ``{"fused": 3}``.

        Raises:
          UserError: an input is not finite; the sentence has the ``name`` of the split.
        """
        total = Counts(0, 0, 0)
        where = distributed.process()
        for batch in evaluation_batches(split, batch_size, len(self._devices), *where):
            counts = jax.device_get(self._counts(state.variables, state.method_state, batch))
            total = jax.tree.map(lambda t, c: t + c.astype(np.int64), total, counts)
        for column, modality in enumerate(self.modalities):
            if bad := total.bad_inputs[column]:
                first = _first_not_finite(split, modality, column)
                raise UserError(
                    f"'{modality}' holds NaN or infinity in {bad} of the {split.examples} examples "
                    f"of the {name or 'given'} split, the first is example {first}: mend or remove "
                    "them"
                )
        figures = summarize(total.confusion, self.modalities)
        bad = zip(figures["confusion"], total.bad_logits.tolist(), strict=True)
        not_finite = {name: number for name, number in bad if number}
        return {**figures, "not_finite": not_finite} if not_finite else figures


def _first_not_finite(split: Split, modality: str, column: int) -> int:
    """The first example that has the modality, and has NaN or infinity in its input."""
    for row in np.flatnonzero(split.present[:, column]).tolist():
        (example,) = split.fetch(np.array([row]))["inputs"][modality]
        if not np.isfinite(np.asarray(example, np.float32)).all():
            return row
    raise ValueError(f"all inputs of '{modality}' are finite")


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
