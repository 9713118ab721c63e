"""Runs single pieces of the references: losses, autoencoders, and counts of parameters.

The two code matrices are by the formula of the specification's golden values.
"""

from typing import Any

import numpy as np

from mla_jax.parity import formula, missing
from mla_jax.parity.formula import Tensors
from mla_jax.parity.theirs.clones import Clone, quiet
from mla_jax.parity.theirs.missing.correlation import symeig
from mla_jax.parity.theirs.recording import to_numpy

MOMENTS = 5
"""Of the CMD, as IF-MMIN calls it (``utt_shared_model.py:143``)."""


def codes(dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices ``float[8, 2]``."""
    i, j = np.mgrid[:8, :2]
    return ((3 * i + 4 * j) % 13 / 5).astype(dtype), ((7 * i + 2 * j) % 11 / 4).astype(dtype)


def correlation_loss(clone: Clone, dtype: Any = np.float64) -> Tensors:
    """``pairloss`` of GCNet's ``dcca.py:50``: ``value``, ``gradient/1``, ``gradient/2`` [8, 2]."""
    with symeig(clone.torch):
        return _of_two(clone, lambda a, b: clone.dcca_script.pairloss(a, b, 2), dtype)


def moment_discrepancy(clone: Clone, dtype: Any = np.float64) -> Tensors:
    """``CMD`` of IF-MMIN's ``models/utils/functions.py:77``, as ``correlation_loss``."""
    criterion = clone.functions.CMD()
    return _of_two(clone, lambda a, b: criterion(a, b, MOMENTS), dtype)


def autoencoders(clone: Clone, dtype: Any = np.float64) -> Tensors:
    """The autoencoders by themselves, without dropout, on ``inputs/x`` float[5, 24].

    ``residual``: of GCNet and MMIN; ``simple``: GCNet's; ``imagination``: IF-MMIN's, with the
    invariant features ``inputs/shared``.  Of each ``<name>/initial/<parameter>``, ``/output`` [5,
    24], ``/latent`` and ``/gradient/<parameter>`` of the sum of both squared.
    """
    torch = clone.torch
    inputs = {n: formula.uniform((5, 24), i).astype(dtype) for i, n in enumerate(("x", "shared"))}
    x, shared = (torch.tensor(value) for value in inputs.values())
    built: dict[str, tuple[Any, tuple[Any, ...]]]
    built = {"residual": (clone.autoencoder.ResidualAE([16, 12, 6], 3, 24, dropout=0), (x,))}
    if hasattr(clone.autoencoder, "SimpleFcAE"):
        built["simple"] = clone.autoencoder.SimpleFcAE([16, 12], 24, dropout=0), (x,)
    if hasattr(clone, "if_autoencoder"):
        model = clone.if_autoencoder.ResidualAE([16, 12, 6], 3, 24, dropout=0)
        built["imagination"] = model, (x, shared)
    found: Tensors = {f"inputs/{name}": value for name, value in inputs.items()}
    for name, (model, arguments) in built.items():
        own = missing.weights({n: p.shape for n, p in model.named_parameters()}, 41)
        with torch.no_grad():
            for part, parameter in model.named_parameters():
                parameter.copy_(torch.tensor(own[part]))
                found[f"{name}/initial/{part}"] = to_numpy(parameter)
        output, latent = model(*arguments)
        ((output**2).sum() + (latent**2).sum()).backward()
        found |= {f"{name}/output": to_numpy(output), f"{name}/latent": to_numpy(latent)}
        for part, parameter in model.named_parameters():
            found[f"{name}/gradient/{part}"] = to_numpy(parameter.grad)
    return found


def parameter_counts(clone: Clone) -> dict[str, int]:
    """Of ``ResidualAE`` at published sizes."""
    with quiet():
        sizes = {"(256,128,64) x 5": ([256, 128, 64], 5), "(256,128) x 2": ([256, 128], 2)}
        models = {
            name: clone.autoencoder.ResidualAE(layers, blocks, 384, dropout=0)
            for name, (layers, blocks) in sizes.items()
        }
    return {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}


def _of_two(clone: Clone, loss: Any, dtype: Any) -> Tensors:
    inputs = [clone.torch.tensor(x, requires_grad=True) for x in codes(dtype)]
    value = loss(*inputs)
    value.backward()
    gradients = {f"gradient/{i}": to_numpy(x.grad) for i, x in enumerate(inputs, 1)}
    return {"value": to_numpy(value)} | gradients
