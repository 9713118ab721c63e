"""Runs the MLA repository's training and evaluation of its other methods, and records them.

As ``theirs``: PyTorch's hooks, from outside, and quantities in our names and axis order.  OGM
reports its coefficients to the TensorBoard writer, for which a recorder stands in.  OGM-GE draws
noise; here each draw is 1 on both sides, so that what is compared is its standard deviation.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from mla_jax.convert.names import Tensors
from mla_jax.parity import toy_convolutions
from mla_jax.parity.cases import Case
from mla_jax.parity.columns import EXAMPLES, Column, training_batch
from mla_jax.parity.reference import Reference, arguments, quiet
from mla_jax.parity.theirs import (
    Adapter,
    Wrapper,
    av_classifier,
    by_collection,
    packet,
    to_numpy,
)

SHORT = toy_convolutions.SHORT
HISTORIES = {
    2: {"audio": "txt_history", "visual": "img_history"},
    3: {"audio": "audio_history", "visual": "img_history", "text": "txt_history"},
}
"""``train_epoch``'s names of the histories; with two modalities the first counts as text."""


def classifier(reference: Reference, case: Case, column: Column, few_ties: bool) -> Adapter:
    """The classifier of one column; its weights are still to be loaded (``columns.weights``)."""
    heads = toy_convolutions.head_names(column)
    if case.name == "resnet18":
        options = {"gs_flag": False, **column.options}
        return av_classifier(reference, few_ties=few_ties, heads=heads, **options)
    model = toy_convolutions.joint_classifier(reference.torch, reference.basic_model, case, column)
    rows = toy_convolutions.head_rows(heads, 0)
    for m, name in toy_convolutions.tower_names(column).items():
        rows += toy_convolutions.tower_rows(case, m, name)
    return Adapter(model, rows)


class Recorder:
    """What one epoch shows, batch by batch; also the writer that OGM reports to."""

    def __init__(self, adapter: Adapter, case: Case, column: Column):
        self.adapter, self.case, self.column = adapter, case, column
        self.modulated = column.options.get("modulation", "").startswith("OGM")
        self.qmf = column.options.get("modulation") == "QMF"
        self.found: Tensors = {}
        self.batch = 1
        self.means: list[tuple[Any, Any]] = []  # logits and value of each mean cross-entropy
        self.raw: Tensors = {}
        self.k: dict[str, float] = {}

    def add_scalar(self, tag: str, value: Any, iteration: int) -> None:
        """One call for each modality's coefficient, and for ratios, which are not compared."""
        del iteration
        for m in self.case.modalities:
            if tag == f"data/coefficient {SHORT[m]}":
                self.k[m] = value if isinstance(value, int) else value.item()

    def gradients(self) -> Tensors:
        """The gradients in our names."""
        named = self.adapter.model.named_parameters()
        return self.adapter.ours({n: p.grad for n, p in named if p.grad is not None})

    def after_backward(self, loss: Any) -> None:
        """The losses of the batch, its logits, and gradients before any modulation."""
        order = [m for m in ("text", "audio", "visual") if m in self.case.modalities]
        unimodal = dict(zip(order, self.means[-len(order) :], strict=True))
        first = self.batch == 1
        when = "loss" if first else "loss, later batches"
        self.found[f"{when}/batch {self.batch} total"] = to_numpy(loss)
        self.raw = self.gradients()
        if first:
            joint = None if self.qmf and len(order) > 2 else self.means[2 if self.qmf else 0]
            for name, pair in {**unimodal, "joint": joint}.items():
                if pair is not None:
                    self.found[f"logits/{name}"] = to_numpy(pair[0])
                    self.found[f"loss/batch 1 {name}"] = to_numpy(pair[1])
            self.keep_gradients(self.raw, "")
        self.means.clear()

    def keep_gradients(self, gradients: Tensors, what: str) -> None:
        """Rows of the named encoder tensors, and before modulation of the heads."""
        for m in self.case.modalities:
            for name in self.case.named:
                value = gradients[f"params/encoder/{m}/{name}"]
                self.found[f"gradient of {m} {name}{what}/{m}"] = value
        for name, value in gradients.items():
            if name.startswith("params/head/") and not what:
                self.found[f"gradient of the head/{name.removeprefix('params/head/')}"] = value

    def before_step(self, *_: Any) -> None:
        """Gradients as the optimiser gets them."""
        applied = self.gradients()
        if self.modulated and self.batch == 1:
            self.keep_gradients(applied, ", modulated")
        if self.modulated and self.column.epoch == 0:
            later = "" if self.batch == 1 else ", later batches"
            for m, k in self.k.items():
                self.found[f"coefficient k{later}/batch {self.batch} {m}"] = np.array(k)
                if self.column.method == "ogm_ge":
                    name = f"params/encoder/{m}/{self.case.named[0]}"
                    sigma = np.mean(applied[name] - k * self.raw[name], dtype=np.float64)
                    self.found[f"deviation of the noise{later}/batch {self.batch} {m}"] = sigma

    def after_step(self, optimizer: Any, *_: Any) -> None:
        """Parameters, statistics and, at the end, momentum."""
        self.found.update(by_collection(self.adapter.tensors(), self.batch))
        if self.batch == self.case.batches:
            self.found.update(momentum(self.adapter, optimizer, self.batch))
        self.batch += 1


def momentum(adapter: Adapter, optimizer: Any, batch: int) -> Tensors:
    """Rows of the momentum buffers of all parameters that ever had a gradient (Q8)."""
    named = adapter.model.named_parameters()
    buffers = {n: optimizer.state[p]["momentum_buffer"] for n, p in named if p in optimizer.state}
    return {f"momentum after {batch}/{n}": value for n, value in adapter.ours(buffers).items()}


@contextlib.contextmanager
def recorded_backward(torch: Any, record: Callable[[Any], None]) -> Iterator[None]:
    """Calls ``record`` with each loss after its backward pass."""
    backward = torch.Tensor.backward

    def both(loss: Any, *inputs: Any, **options: Any) -> None:
        backward(loss, *inputs, **options)
        record(loss)

    with mock.patch.object(torch.Tensor, "backward", both):
        yield


def train(
    reference: Reference, adapter: Adapter, case: Case, column: Column, dtype: Any
) -> Tensors:
    """One epoch of the reference's training function over ``case.batches`` batches."""
    torch, model = reference.torch, adapter.model
    optimizer = torch.optim.SGD(
        model.parameters(), lr=case.learning_rate, momentum=0.9, weight_decay=1e-4
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 70, 0.1)
    recorder, wrapped = Recorder(adapter, case, column), Wrapper.around(torch, model)
    found = recorder.found
    heads = {getattr(model, f"{m}_fc"): m for m in case.modalities if recorder.qmf}

    def after_module(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(module, torch.nn.CrossEntropyLoss) and module.reduction == "mean":
            recorder.means.append((inputs[0], output))
        elif recorder.batch == 1 and module in heads:
            found[f"features, training/{heads[module]}"] = to_numpy(inputs[0])
        elif recorder.batch == 1 and module is wrapped and not heads:
            for m, z in zip(case.modalities, output, strict=False):
                found[f"features, training/{m}"] = to_numpy(z)

    histories = {m: reference.utils.History(EXAMPLES) for m in case.modalities}
    rank_loss = reference.main.rank_loss

    def recorded_rank_loss(confidence: Any, index: Any, history: Any) -> Any:
        value = rank_loss(confidence, index, history)
        (m,) = [m for m, known in histories.items() if known is history]
        later = "" if recorder.batch == 1 else ", later batches"
        found[f"ranking loss{later}/batch {recorder.batch} {m}"] = to_numpy(value)
        found[f"history{later}/batch {recorder.batch} {m}"] = history.correctness.copy()
        return value

    optimizer.register_step_pre_hook(recorder.before_step)
    optimizer.register_step_post_hook(recorder.after_step)
    hook = torch.nn.modules.module.register_module_forward_hook(after_module)
    batches = [packet(torch, training_batch(case, i, dtype)) for i in range(case.batches)]
    named = HISTORIES[len(case.modalities)]
    options = arguments(gs_flag=False, use_tensorboard=True, **column.options)
    try:
        with (
            quiet(),
            recorded_backward(torch, recorder.after_backward),
            mock.patch.object(reference.main, "rank_loss", recorded_rank_loss),
            mock.patch.object(torch.Tensor, "normal_", lambda t, mean, std: t.fill_(mean + std)),
        ):
            reference.main.train_epoch(
                options, column.epoch, wrapped, torch.device("cpu"), batches, optimizer,
                scheduler, writer=recorder, **{named[m]: h for m, h in histories.items()},
            )  # fmt: skip
    finally:
        hook.remove()
    return found


def evaluate(
    reference: Reference, adapter: Adapter, case: Case, column: Column, dtype: Any
) -> Tensors:
    """The reference's evaluation over a ragged test set."""
    torch = reference.torch
    wrapped = Wrapper.around(torch, adapter.model)
    loader = [packet(torch, batch) for batch in case.test_batches(dtype)]
    order = ["fused", *(m for m in ("visual", "audio", "text") if m in case.modalities)]
    seen: list[np.ndarray] = []

    def after_module(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Softmax):
            seen.append(to_numpy(inputs[0]))

    hook = torch.nn.modules.module.register_module_forward_hook(after_module)
    options = arguments(gs_flag=False, **column.options)
    try:
        with quiet():
            scores = reference.main.valid(options, wrapped, torch.device("cpu"), loader)
    finally:
        hook.remove()
    found: Tensors = {}
    for name, score in zip(("fused", *case.modalities), scores, strict=True):
        found[f"accuracy on a ragged test set/{name}"] = np.array(score)
    for i, name in enumerate(order):
        logits = np.concatenate(seen[i :: len(order)])
        row = "fused logits" if name == "fused" else "unimodal logits, evaluation"
        found[f"{row}/{name}"] = logits
        found[f"predictions/{name}"] = logits.argmax(-1)
    return found
