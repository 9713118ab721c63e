"""Records what a reference's training and evaluation compute, with PyTorch's hooks from outside.

All quantities leave as numpy arrays under our names and in our axis order.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np

from mla_jax.parity import rows
from mla_jax.parity.formula import Tensors
from mla_jax.parity.theirs.classifiers import Trial
from mla_jax.parity.theirs.clones import quiet
from mla_jax.state import Batch

Features = Callable[[Any, Any], Iterable[tuple[str, Any]]]
"""``(inputs, output) -> (modality, features)``, of the call of a module."""


NO_SCHEDULER = mock.Mock()
"""Replaces the scheduler, which would step after the one epoch that is run."""


def to_numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().numpy().copy()


def loader(torch: Any, batches: Iterable[Batch]) -> list[tuple[Any, ...]]:
    """Batches as MLA's loader yields them: spectrograms, images, labels, indices.

    With text: tokens, their padding mask, images, any spectrograms, labels, indices.
    """
    found = []
    for batch in batches:
        inputs = dict(batch["inputs"])
        if "text" not in inputs and inputs["visual"].ndim > 2:  # no channel on spectrograms
            inputs["audio"] = inputs["audio"][..., 0]
        for m, x in inputs.items():  # [B, (T,) H, W, C] -> [B, C, (T,) H, W]
            inputs[m] = np.moveaxis(x, -1, 1) if x.ndim > 3 else x
        parts = [inputs[m] for m in ("audio", "visual") if m in inputs]
        if "text" in inputs:
            mask = (inputs["text"] == 0).astype(np.float32)
            parts = [inputs["text"], mask, *reversed(parts)]
        parts += [batch["label"].astype(np.int64), batch["index"][:, None]]
        found.append(tuple(torch.tensor(np.ascontiguousarray(part)) for part in parts))
    return found


class Recorder:
    """Records one epoch of training, batch by batch."""

    means_of: tuple[str, ...] = ()
    """The names of the mean cross-entropies, in the order in which a batch computes them."""

    def __init__(self, trial: Trial, features: Mapping[Any, Features]):
        self.trial, self.torch, self.features = trial, trial.clone.torch, features
        self.found: Tensors = {}
        self.steps = 0
        self.means: list[tuple[Any, Any]] = []  # logits and value of each mean cross-entropy

    @property
    def steps_per_batch(self) -> int:
        """How many steps the optimiser makes in a batch."""
        return 1

    @property
    def batch(self) -> int:
        """The number of the batch, from 1."""
        return self.steps // self.steps_per_batch + 1

    @property
    def at(self) -> str:
        """The end of the names of quantities that every batch has."""
        return f"{rows.later(self.batch)}/batch {self.batch}"

    def after_module(self, module: Any, inputs: Any, output: Any) -> None:
        """Features of the first batch, and mean cross-entropies."""
        if isinstance(module, self.torch.nn.CrossEntropyLoss) and module.reduction == "mean":
            self.means.append((inputs[0], output))
        elif self.batch == 1 and module in self.features:
            for m, z in self.features[module](inputs, output):
                self.found[f"features, training/{m}"] = to_numpy(z)

    def after_backward(self, loss: Any) -> None:
        """The losses of the batch, its logits, and gradients before any modulation."""
        self.found[f"loss{self.at} total"] = to_numpy(loss)
        if self.batch == 1:
            for name, (logits, mean) in zip(self.means_of, self.means, strict=True):
                self.found[f"logits/{name}"] = to_numpy(logits)
                self.found[f"loss/batch 1 {name}"] = to_numpy(mean)
            gradients, case = self.trial.gradients(), self.trial.case
            self.found |= rows.encoder_gradients(gradients, case.modalities, case.named)
            self.found |= rows.head_gradients(gradients)
        self.means.clear()

    def before_step(self, *_: Any) -> None:
        """Called before the optimiser's step."""

    def after_step(self, optimizer: Any, *_: Any) -> None:
        """Parameters and statistics after each batch, momentum after the last (Q8)."""
        number = self.batch
        self.steps += 1
        if self.batch == number:
            return
        momentum = {}
        if number == self.trial.case.batches:
            for name, parameter in self.trial.model.named_parameters():
                if parameter in optimizer.state:  # it had a gradient
                    momentum[name] = optimizer.state[parameter]["momentum_buffer"]
        self.found |= rows.state(self.trial.tensors(), self.trial.ours(momentum), number)

    @contextlib.contextmanager
    def watching(self, optimizer: Any) -> Iterator[None]:
        """Runs the hooks."""
        backward = self.torch.Tensor.backward

        def recorded(loss: Any, *inputs: Any, **options: Any) -> None:
            backward(loss, *inputs, **options)
            self.after_backward(loss)

        optimizer.register_step_pre_hook(self.before_step)
        optimizer.register_step_post_hook(self.after_step)
        with (
            hooked(self.torch, self.after_module),
            mock.patch.object(self.torch.Tensor, "backward", recorded),
        ):
            yield


@contextlib.contextmanager
def hooked(torch: Any, after_module: Callable[[Any, Any, Any], None]) -> Iterator[None]:
    """Calls ``after_module(module, inputs, output)`` after every call of a module, and is quiet."""
    hook = torch.nn.modules.module.register_module_forward_hook(after_module)
    try:
        with quiet():
            yield
    finally:
        hook.remove()


def softmaxes(
    torch: Any, names: tuple[str, ...], evaluate: Callable[[], Any]
) -> tuple[Any, dict[str, np.ndarray]]:
    """The result of ``evaluate()``, and the inputs of its softmaxes: ``{name: logits [N, C]}``.

    A batch calls one for each of ``names`` in turn.  For ``weights`` it is the output ``[N, K]``.
    """
    seen: dict[str, list[np.ndarray]] = {name: [] for name in names}
    turns = itertools.cycle(names)

    def after_module(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Softmax):
            name = next(turns)
            seen[name].append(to_numpy(output.T if name == "weights" else inputs[0]))

    with hooked(torch, after_module):
        returned = evaluate()
    return returned, {name: np.concatenate(parts) for name, parts in seen.items()}
