"""Runs GCNet's CCA, DCCA and DCCAE scripts (``baseline-cca``) on three small views.

Each script runs as its command would, with our views, mask and labels for what it reads and draws:
mean filling, projections or training, codes and the linear SVM are the clone's.  Returned names,
with <m> one of A, V, L and all three sets in one array, training, validation, test:

    inputs/<m> float[N, dim], inputs/present int[N, 3], inputs/label int[N], inputs/examples int[3]
    filled/<set>/<m>              after filling with means, as the method gets it
    codes/train, codes/test       float[n, K], what the SVM gets
    svm/coefficients, svm/intercept, svm/predictions
    svm/exact coefficients, svm/exact intercept    of its minimum (``minimum``)

CCA: mean/<pair>/<m> [1, dim] and projection/<pair>/<m> [dim, k] for the pairs AV, AL, VL; the sign
of each column is free (both of a pair change together).  DCCA and DCCAE, whose one batch is the
training set in order, for three epochs of one Adam step:

    initial/<parameter>, trained/<parameter>, statistics/<buffer>    PyTorch's names and layouts
    forward/<m>                   codes of the first step; reconstruction/<m> with DCCAE
    loss/step 1 .. 3              the training loss
    gradient/<parameter>          of the first step
    validation/epoch 1 .. 3       DCCAE: the loss that chooses the checkpoint
    chosen                        DCCAE: the epoch of the checkpoint that the codes are of
    optimizer/<setting>

The biases in front of a batch normalisation have gradients of 0 but for rounding and decay: compare
them in float64.
"""

import contextlib
import functools
import pathlib
import sys
import tempfile
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np

from mla_jax.parity import missing
from mla_jax.parity.formula import Tensors
from mla_jax.parity.missing import LETTERS, STEPS, VIEWS
from mla_jax.parity.theirs.clones import Clone, quiet
from mla_jax.parity.theirs.published import as_script
from mla_jax.parity.theirs.recording import to_numpy

SETS = ("train", "validation", "test")
PAIRS = ("AV", "AL", "VL")


def cca(clone: Clone, dtype: Any = np.float64) -> Tensors:
    """``cca.py``: three pairwise projections, closed form (lines 24-61, 137-170)."""
    script, models = clone.cca_script, []

    def create(**options: Any) -> Any:
        models.append(published(**options))
        return models[-1]

    published = script.CCA
    with mock.patch.object(script, "CCA", create):
        found = _run(script, dtype)
    for pair, model in zip(PAIRS, models, strict=True):
        for letter, mean, projection in zip(pair, model.m, model.w, strict=True):
            found[f"mean/{pair}/{letter}"] = mean
            found[f"projection/{pair}/{letter}"] = projection
    return found


def dcca(clone: Clone, dtype: Any = np.float64) -> Tensors:
    """``dcca.py``: no labels, constant rate, the last checkpoint; L through V's network."""
    return _deep(clone, clone.dcca_script, dtype)


def dccae(clone: Clone, dtype: Any = np.float64) -> Tensors:
    """``dccae.py``: with decoders, and the checkpoint of the lowest validation loss.

    Its script makes float32 of what it reads, so filled means are rounded in float64 too.
    """
    return _deep(clone, clone.dccae_script, dtype)


def _deep(clone: Clone, script: types.ModuleType, dtype: Any) -> Tensors:
    torch, found, trainers = clone.torch, {}, []

    Trainer: Any = script.Trainer

    class Recorded(Trainer):
        """The published trainer from weights by formula, with what it computes."""

        def __init__(self, name: str, model: Any, objective: Any, **options: Any):
            own = missing.weights({n: p.shape for n, p in model.named_parameters()}, 31)
            with torch.no_grad():
                for part, parameter in model.named_parameters():
                    parameter.copy_(torch.tensor(own[part]))
            for part, parameter in model.named_parameters():
                found[f"initial/{part}"] = to_numpy(parameter)
            super().__init__(name, model, objective, device=torch.device("cpu"), **options)
            self.model.register_forward_hook(self.after_forward)
            self.optimizer.register_step_pre_hook(self.before_step)
            self.chosen = 0
            trainers.append(self)

        def train_step(self, data: Any) -> Any:
            codes, truths, loss = super().train_step(data)
            if self.model.training:
                found[f"loss/step {self.epoch}"] = to_numpy(loss)
            return codes, truths, loss

        def after_forward(self, model: Any, inputs: Any, outputs: Any) -> None:
            if model.training and self.epoch == 1:
                for i, value in enumerate(outputs):
                    kind = "reconstruction" if i >= len(LETTERS) else "forward"
                    found[f"{kind}/{LETTERS[i % len(LETTERS)]}"] = to_numpy(value)

        def before_step(self, *_: Any) -> None:
            if self.epoch == 1:
                for part, parameter in self.model.named_parameters():
                    if parameter.grad is not None:
                        found[f"gradient/{part}"] = to_numpy(parameter.grad)

        def train(self, *inputs: Any) -> None:
            super().train(*inputs)
            for part, value in self.model.state_dict().items():
                kind = "trained" if part in dict(self.model.named_parameters()) else "statistics"
                found[f"{kind}/{part}"] = to_numpy(value)
            for epoch, loss in enumerate(self.stats["valid_loss"], 1):
                found[f"validation/epoch {epoch}"] = np.array(loss)

        def load_checkpoint(self, checkpoint: Any = None) -> None:
            super().load_checkpoint(checkpoint)
            self.chosen = self.epoch - 1

    def one_batch(data: Any, **_: Any) -> list[dict[str, Any]]:
        return [torch.utils.data.default_collate([data[i] for i in range(len(data))])]

    sets = iter(SETS)

    def dataset(*inputs: Any) -> Any:
        *views, label = inputs
        views, name = [view.astype(dtype) for view in views], next(sets)
        found.update((f"filled/{name}/{m}", view) for m, view in zip(LETTERS, views, strict=True))
        return published(*views, label)

    published = script.NoisyMNIST
    amp = types.SimpleNamespace(
        initialize=lambda model, optimizer, **_: (model, optimizer),
        scale_loss=lambda loss, _: contextlib.nullcontext(loss),
        state_dict=dict,
        load_state_dict=lambda _: None,
    )
    with (
        mock.patch.multiple(
            script, Trainer=Recorded, NoisyMNIST=dataset, DataLoader=one_batch, amp=amp
        ),
        mock.patch.object(torch, "load", functools.partial(torch.load, weights_only=False)),
        symeig(torch),
    ):
        found = _run(script, dtype, ("n-hidden", VIEWS.hidden), ("max-epoch", STEPS)) | found
    (trainer,) = trainers
    if "validation/epoch 1" in found:
        found["chosen"] = np.array(trainer.chosen)
    settings = trainer.optimizer.param_groups[0]
    for name in ("lr", "betas", "eps", "weight_decay"):
        found[f"optimizer/{name}"] = np.array(settings[name])
    return found


def _run(script: types.ModuleType, dtype: Any, *options: tuple[str, Any]) -> Tensors:
    """The script from its command line to its SVM, on our views."""
    views, labels = VIEWS.data(dtype)
    bounds = np.cumsum(VIEWS.examples)[:-1]
    parts = [np.split(x, bounds) for x in views]
    y = np.split(labels, bounds)
    read = []
    for i in range(3):
        read += [[part[i] for part in parts], y[i]]
    names = np.array([f"test_{i}" for i in range(VIEWS.examples[2])])
    found: Tensors = {f"inputs/{m}": x for m, x in zip(LETTERS, views, strict=True)}
    found |= {"inputs/present": VIEWS.present, "inputs/label": labels}
    found["inputs/examples"] = np.array(VIEWS.examples)
    turns = iter(LETTERS)

    def fill(*inputs: Any) -> Any:
        filled, letter = published(*inputs), next(turns)
        found.update((f"filled/{s}/{letter}", x) for s, x in zip(SETS, filled, strict=True))
        return filled

    published = script.padmeanV1
    Machine: Any = script.svm.LinearSVC

    class Classifier(Machine):
        """The published SVM, with what it is given and what it finds."""

        def fit(self, codes: Any, label: Any) -> Any:
            found["codes/train"] = codes
            super().fit(codes, label)
            found["svm/coefficients"], found["svm/intercept"] = self.coef_, self.intercept_
            exact = minimum(codes, label, self)
            found["svm/exact coefficients"], found["svm/exact intercept"] = exact
            return self

        def predict(self, codes: Any) -> Any:
            found["codes/test"] = codes
            found["svm/predictions"] = super().predict(codes)
            return found["svm/predictions"]

    with (
        mock.patch.multiple(
            script,
            read_cmumosi_data=lambda path, normalize: (*read, names),
            get_sn=lambda views, total, rate: VIEWS.present,
            padmeanV1=fill,
        ),
        mock.patch.object(script.svm, "LinearSVC", Classifier),
        _command(("n-components", VIEWS.codes), ("dataset", "cmumosi"), *options),
    ):
        as_script(script)
    return found


def minimum(codes: np.ndarray, label: np.ndarray, svm: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weights ``[C, K]`` and intercepts ``[C]`` to which a fitted linear SVM would go on.

    Its squared hinge is quadratic on the examples inside the margin, where liblinear stops early:
    the normal equations of these examples, in float64, until they stay the same.
    """
    X = np.concatenate([codes, np.ones((len(codes), 1))], 1).astype(np.float64)
    found = []
    for kind, w in zip(svm.classes_, np.c_[svm.coef_, svm.intercept_], strict=True):
        y, inside = np.where(label == kind, 1.0, -1.0), None
        while inside is None or (inside != (y * (X @ w) < 1)).any():
            inside = y * (X @ w) < 1
            A, b = X[inside], y[inside]
            w = np.linalg.solve(np.eye(X.shape[1]) / (2 * svm.C) + A.T @ A, A.T @ b)
        found.append(w)
    return np.stack(found)[:, :-1], np.stack(found)[:, -1]


def symeig(torch: Any) -> Any:
    """Gives PyTorch its ``symeig`` back, for the time of a ``with`` block."""
    return mock.patch.object(
        torch, "symeig", lambda matrix, eigenvectors: torch.linalg.eigh(matrix), create=True
    )


@contextlib.contextmanager
def _command(*options: tuple[str, Any]) -> Iterator[None]:
    """The command line and the folder to run in: the scripts write beside and above it."""
    words = ["", *(f"--{name}={value}" for name, value in options)]
    with tempfile.TemporaryDirectory() as folder:
        inside = pathlib.Path(folder, "run")
        inside.mkdir()
        with contextlib.chdir(inside), mock.patch.object(sys, "argv", words), quiet():
            yield
