"""One column of another method: theirs from a clone, ours from what theirs started from."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from mla_jax.convert.names import Tensors
from mla_jax.parity import columns, compare, dimml_ours, joint_ours
from mla_jax.parity.cases import Case

INITIAL, TRAINED = "initial/", "trained/"
"""Prefixes of what is no quantity to compare: the weights that both start from, and theirs after
training, from which both are evaluated, so that those rows show the forward pass alone."""


def toy(name: str, dtype: Any) -> Case:
    """The small case of a column."""
    known = columns.JOINT.get(name)
    modalities = known.modalities if known else columns.MODALITIES
    return columns.toy_case(modalities, jnp.dtype(dtype))


def program(name: str, case: Case, **changes: Any) -> joint_ours.Program:
    """Our method of a column; ``changes`` set switches wrong on purpose."""
    if name in columns.DIMML:
        return dimml_ours.program(case, **changes)
    return joint_ours.Program.of(case, columns.JOINT[name], **changes)


def theirs(loaded: Any, name: str, case: Case, dtype: Any, few_ties: bool = False) -> Tensors:
    """Every quantity of a column, and the weights before and after, under their prefixes."""
    from mla_jax.parity import dimml_theirs, joint_theirs

    if name in columns.FUSIONS:
        return dimml_theirs.fusion_module(loaded, name, dtype)
    if name in columns.JOINT:
        adapter = joint_theirs.classifier(loaded, case, columns.JOINT[name], few_ties)
    else:
        adapter = dimml_theirs.classifier(loaded, case, few_ties)
    own = adapter.tensors() if case.name == "resnet18" else {}
    own = {n: value for n, value in own.items() if not n.startswith("params/head/")}
    initial = columns.weights(program(name, case).method, case, dtype, own or None)
    adapter.load(loaded.torch, initial)
    if name in columns.JOINT:
        found = joint_theirs.train(loaded, adapter, case, columns.JOINT[name], dtype)
        trained = adapter.tensors()
        found |= joint_theirs.evaluate(loaded, adapter, case, columns.JOINT[name], dtype)
    elif name == "dimml_fused":
        found = dimml_theirs.fused(loaded, adapter, case, dtype)
        found |= dimml_theirs.calendar(loaded, case.learning_rate)
        trained = adapter.tensors()
    else:
        epoch = 20 if name == "dimml_duc" else 19
        found = dimml_theirs.detached(loaded, adapter, case, epoch, dtype)
        found |= dimml_theirs.contrast(loaded, dtype) if name == "dimml_duc" else {}
        trained = {}
    found |= {INITIAL + n: value for n, value in initial.items()}
    return found | {TRAINED + n: value for n, value in trained.items()}


def ours(name: str, case: Case, found: Tensors, dtype: Any) -> Tensors:
    """The same quantities from our code; ``found`` is what ``theirs`` returned."""
    if name in columns.FUSIONS:
        return dimml_ours.fusion_module(name, dtype)
    chosen = program(name, case)
    initial = without_prefix(found, INITIAL) or columns.weights(chosen.method, case, dtype)
    trained = without_prefix(found, TRAINED)
    if name in columns.JOINT:
        own = joint_ours.train(chosen, initial, columns.JOINT[name], dtype)
        return own | joint_ours.evaluate(chosen, trained, dtype)
    if name == "dimml_fused":
        own = dimml_ours.fused(chosen, initial, trained, dtype) | dimml_ours.calendar(chosen)
        return {n: value for n, value in own.items() if n in found}  # theirs scores less
    own = dimml_ours.detached(chosen, initial, 20 if name == "dimml_duc" else 19, found, dtype)
    return own | (dimml_ours.contrast(dtype) if name == "dimml_duc" else {})


def verdicts(found: Tensors, own: Tensors, float64: bool = False) -> dict[str, compare.Verdict]:
    """The cells of one column."""
    quantities = {n: v for n, v in found.items() if not n.startswith((INITIAL, TRAINED))}
    return compare.compare(quantities, own, float64)


def without_prefix(found: Tensors, prefix: str) -> Tensors:
    """The tensors whose names begin with ``prefix``, which is taken off."""
    return {
        n.removeprefix(prefix): np.asarray(value)
        for n, value in found.items()
        if n.startswith(prefix)
    }
