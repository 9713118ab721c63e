"""The features that a run's encoders give to its heads, and the predictions from them."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from mla_jax.data.dataset import Split
from mla_jax.data.pipeline import evaluation_batches
from mla_jax.errors import UserError
from mla_jax.evaluate import Outputs, outputs
from mla_jax.methods import Method
from mla_jax.runs.predictions import Predictions, collect
from mla_jax.state import Batch

if TYPE_CHECKING:  # the run's own module does not import this one
    from mla_jax.runs.run import Run

Compute = Callable[[dict[str, Any], Any, Batch], tuple[dict[str, jax.Array], Outputs]]
"""``(variables, method_state, batch) -> ({modality: float32[B, D]}, Outputs)``."""


class Representation(NamedTuple):
    """The features of N examples of a split, in its order, and the predictions from them.

    >>> found = mla_jax.features(mla_jax.open_run("runs/mfeat"), "test")
    >>> found.label.shape, found.present.shape, found.predictions.classes.shape
    ((400,), (400, 2), (400,))
    >>> found.index[:4]
    array([0, 1, 2, 3], dtype=int32)
    """

    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index
    """``int32[N]``: the example's number within the split."""
    label: np.ndarray
    """``int32[N]``."""
    present: np.ndarray
    """``bool[N, M]``."""
    features: Mapping[str, np.ndarray]
    """``{modality: float32[N, D]}`` of modalities that occur; NaN where an example lacks one."""
    predictions: Predictions


def compute_of(method: Method) -> Compute:
    """The compiled function behind ``features``, which all runs of one program can share.

    Raises:
      UserError: the method trains no encoder, so it has no features.
    """
    if method.features is None:
        raise UserError(
            f"'{method.name}' trains no encoder, so it has no features: choose a run of another "
            "method"
        )
    of_batch, predict = method.features, outputs(method)

    def compute(variables, method_state, batch):
        return of_batch(variables, batch), predict(variables, method_state, batch)

    return jax.jit(compute)


def features(
    run: "Run",
    split: str | Split = "test",
    modalities: str | Sequence[str] = (),
    epoch: str = "chosen",
    data_dir: str = "",
    compute: Compute | None = None,
) -> Representation:
    """The features of a split that the heads of a run get, in evaluation mode.

    Args:
      run: with a checkpoint.
      split, modalities, epoch, data_dir: as in ``Run.evaluate``.
      compute: ``compute_of`` of the run's program, to avoid compiling it again.

    Raises:
      UserError: as ``Run.evaluate``; the method has no features; or a number is not finite.

    >>> run = mla_jax.open_run("runs/mfeat")
    >>> mla_jax.features(run, "test").features["pixel"].shape
    (400, 64)
    """
    compute = compute or compute_of(run.program.method)
    split = run.split_of(split, modalities, data_dir)
    state, size = run.load(epoch), run.config.evaluation.batch_size
    batches, found, told = [], [], []
    for batch in evaluation_batches(split, size, 1):
        local = jax.tree.map(lambda array: array[0], batch)
        n = int(local["valid"].sum())
        z, said = jax.device_get(compute(state.variables, state.method_state, local))
        batches.append({key: local[key][:n] for key in ("index", "label", "present")})
        found.append({m: array[:n] for m, array in z.items()})
        weights = None if said.weights is None else said.weights[:n]
        told.append(Outputs(said.fused[:n], said.unimodal[:, :n], weights))
    facts = {key: np.concatenate([part[key] for part in batches]) for key in batches[0]}
    predictions = collect(told, run.data, facts["present"])
    z = {}
    for i, m in enumerate(run.modalities):
        there = facts["present"][:, i]
        if there.any():
            joined = np.concatenate([part[m] for part in found])
            _check_finite(joined, there, m)
            z[m] = np.where(there[:, None], joined, np.float32(np.nan))
    return Representation(facts["index"], facts["label"], facts["present"], z, predictions)


def _check_finite(array: np.ndarray, there: np.ndarray, modality: str) -> None:
    bad = there & ~np.isfinite(array).all(1)
    if bad.any():
        raise UserError(
            f"the features of '{modality}' are not finite in example {int(np.flatnonzero(bad)[0])}:"
            " its input is far from what the run was trained on"
        )


def to_npz(found: Representation, modalities: Sequence[str]) -> bytes:
    """An ``.npz`` file: ``index``, ``label``, ``present``, ``modalities`` (names, in the order of
    the columns of ``present``), ``class_names``, ``features/<modality>: float32[N, D]``,
    ``logits/<modality>: float32[N, C]``, ``classes: int32[N]`` (fused) and, where the method weighs
    modalities, ``weights`` (``Predictions.weights``)."""
    predictions = found.predictions
    content: dict[str, Any] = {
        "index": found.index,
        "label": found.label,
        "present": found.present,
        "modalities": np.array(modalities),
        "class_names": np.array(predictions.class_names),
        "classes": predictions.classes,
        **{f"features/{m}": array for m, array in found.features.items()},
        **{f"logits/{m}": by.logits for m, by in predictions.modalities.items()},
    }
    if predictions.weights is not None:
        content["weights"] = predictions.weights
    file = io.BytesIO()
    np.savez_compressed(file, **content)
    return file.getvalue()
