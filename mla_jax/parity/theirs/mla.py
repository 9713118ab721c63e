"""Runs MLA's own training and evaluation, and its plugin by itself."""

import copy
import functools
from typing import Any

import numpy as np

from mla_jax.parity import recursion, rows
from mla_jax.parity.cases import MODALITIES, PER_EPOCH, projection_inputs
from mla_jax.parity.formula import Tensors
from mla_jax.parity.theirs import published
from mla_jax.parity.theirs.classifiers import Trial, wrapped
from mla_jax.parity.theirs.recording import NO_SCHEDULER, Recorder, loader, softmaxes, to_numpy


def run(trial: Trial) -> Tensors:
    """Every quantity of one of MLA's columns."""
    torch, found = trial.clone.torch, train(trial)
    found |= rows.with_prefix(trial.tensors(), rows.TRAINED)
    found |= evaluate(trial) | projection_updates(trial)
    if trial.case.published:  # of the fixtures, that of the optimisers has it
        found |= rows.rates(trial.script.rates)
    if trial.case.resnet:  # pretrained weights replace the initialisation of transformers
        with published.unit_draws(torch):
            (model,) = published.mla(trial.clone, True, trial.column.command).models
        found |= rows.initialization(trial.ours(dict(model.state_dict())))
    return found


class AlternatingRecorder(Recorder):
    """A batch has a step for each modality; ``plugin`` acts between a backward pass and a step."""

    plugin: Any = None

    @property
    def steps_per_batch(self) -> int:
        """One per modality."""
        return len(self.trial.case.modalities)

    @property
    def modality(self) -> str:
        """The modality of the current step."""
        return self.trial.case.modalities[self.steps % self.steps_per_batch]

    def after_backward(self, loss: Any) -> None:
        """The loss, the logits, and the head's gradient before any projection."""
        m, ((logits, _),) = self.modality, self.means
        self.means.clear()
        if self.batch == 1:
            self.found[f"logits/{m}"] = to_numpy(logits)
        self.found[f"loss{self.at} {m}"] = to_numpy(loss)
        if self.batch == 1:
            self.found |= rows.shared_head(self.trial.gradients(), f"gradient of the head/{m}")

    def before_step(self, *_: Any) -> None:
        """The gradient after the plugin."""
        m = self.modality
        self.found[f"projection matrix in training/batch {self.batch} {m}"] = _matrix(self.plugin)
        if self.batch == 1:
            gradients = self.trial.gradients()
            self.found |= rows.shared_head(gradients, f"gradient of the head, projected/{m}")
            self.found |= rows.encoder_gradients(gradients, [m], self.trial.case.named)

    def after_step(self, optimizer: Any, *_: Any) -> None:
        """The head after each sub-step, and all parameters after a batch."""
        at = f"head after each sub-step/batch {self.batch} {self.modality}"
        self.found |= rows.shared_head(self.trial.tensors(), at)
        super().after_step(optimizer)


def train(trial: Trial) -> Tensors:
    """One epoch of the reference's training function over the training set."""
    clone, column, case, _, model, *_ = trial
    torch, head = clone.torch, model.fusion_module.fc_out
    optimizer = trial.sgd(model.parameters())
    if column.switches["zero_grad_drift"]:
        optimizer.zero_grad = functools.partial(optimizer.zero_grad, set_to_none=False)
    whole = wrapped(torch, model)
    if column.fidelity == "first_drop":
        model.fusion_module.fc_out = wrapped(torch, head)
    recorder = AlternatingRecorder(
        trial, {whole: lambda inputs, output: zip(case.modalities, output, strict=True)}
    )
    recorder.plugin = _plugin(trial)
    batches = loader(torch, case.training_batches(trial.dtype))
    try:
        with recorder.watching(optimizer):
            clone.main.train_epoch(
                trial.script.options, 0, whole, torch.device("cpu"), batches, optimizer,
                NO_SCHEDULER, gs_plugin=recorder.plugin, gs_flag=True,
            )  # fmt: skip
    finally:
        model.fusion_module.fc_out = head
    return recorder.found


def evaluate(trial: Trial) -> Tensors:
    """The reference's evaluation over a ragged test set, under both of its fusion rules."""
    torch, whole = trial.clone.torch, wrapped(trial.clone.torch, trial.model)
    first, second, *others = modalities = trial.case.modalities
    batches = loader(torch, trial.case.test_batches(trial.dtype))
    paper = trial.column.fidelity == "paper"
    features: list[list[np.ndarray]] = []
    whole.register_forward_hook(
        lambda module, inputs, output: features.append([to_numpy(z) for z in output])
    )
    found: Tensors = {}
    for rule in ("fixed", "dynamic"):
        features.clear()
        options = copy.copy(trial.script.options)
        options.dynamic = rule == "dynamic"
        valid = functools.partial(
            trial.clone.main.valid, options, whole, torch.device("cpu"), batches,
            **trial.script.evaluation,
        )  # fmt: skip
        scores, logits = softmaxes(torch, ("fused", second, first, *others), valid)
        fused, scores = logits["fused"], np.array(scores)
        if rule == "dynamic" and paper:  # the reference has no code for it
            fused = recursion.fuse(np.stack([logits[m] for m in modalities]).astype(np.float64))
            label = np.concatenate([np.asarray(p[2]) for p in batches])
            scores[0] = np.mean(fused.argmax(-1) == label)
        found |= {
            f"fused logits, {rule} fusion/all": fused,
            f"predictions/{rule} fusion": fused.argmax(-1),
            f"accuracy on a ragged test set/{rule} fusion": scores,
        }
        for m, z in zip(modalities, zip(*features, strict=True), strict=True):
            found[f"features, evaluation/{m}"] = np.concatenate(z)
            found[f"predictions/{m}"] = logits[m].argmax(-1)
    return found


def projection_updates(trial: Trial) -> Tensors:
    """The plugin by itself, called once for each of 20 gradients ``[C, D]``."""
    torch, width = trial.clone.torch, trial.case.encoders.feature_dim
    gradients, features = (x.astype(trial.dtype) for x in projection_inputs(width))
    head = torch.nn.Linear(width, gradients.shape[1])
    called = wrapped(torch, head) if trial.column.fidelity == "first_drop" else head
    plugin = _plugin(trial)
    found: Tensors = {}
    for n, (G, Z) in enumerate(zip(gradients, features, strict=True)):
        head.weight.grad = torch.tensor(G)
        batch = n // len(MODALITIES) % PER_EPOCH
        plugin.before_update(called, torch.tensor(Z), batch, PER_EPOCH, plugin.exp_count)
        plugin.exp_count += 1
        found[f"projection matrix, 20 updates/{n + 1}"] = _matrix(plugin)
        found[f"projected gradient, 20 updates/{n + 1}"] = to_numpy(head.weight.grad).T
    return found


class _PaperPlugin:
    """``recursion`` instead of the reference's plugin, with the same interface."""

    def __init__(self, width: int):
        self.Pl = np.eye(width)
        self.exp_count = 0

    def before_update(self, head: Any, features: Any, batch: int, batches: int, count: int) -> None:
        del count
        (weight,) = [p for name, p in head.named_parameters() if name.endswith("weight")]
        gradient = weight.grad.detach().numpy().astype(np.float64)
        projected = recursion.project(gradient, self.Pl)
        weight.grad.copy_(weight.grad.new_tensor(projected))
        mean = features.detach().numpy().astype(np.float64).mean(0)
        self.Pl = recursion.update(self.Pl, mean, 0.1 ** (1 + batch / batches))


def _plugin(trial: Trial) -> Any:
    """The plugin as published, which does nothing (Q1) unless a parameter's name matches.

    For the paper no reference code exists.
    """
    clone, width = trial.clone, trial.case.encoders.feature_dim
    if trial.column.fidelity == "paper":
        return _PaperPlugin(width)
    plugin = clone.utils.GSPlugin()
    if width != len(plugin.Pl):  # 512 is written into the plugin (Q32)
        plugin.Pl = clone.torch.eye(width).type(plugin.Pl.type())
    return plugin


def _matrix(plugin: Any) -> np.ndarray:
    P = plugin.Pl
    return P.copy() if isinstance(P, np.ndarray) else to_numpy(P)
