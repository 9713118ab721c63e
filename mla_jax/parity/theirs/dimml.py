"""Runs DI-MML's two training files and its fusion modules."""

import functools
from typing import Any

import numpy as np

from mla_jax.parity import rows
from mla_jax.parity.cases import module_inputs
from mla_jax.parity.columns import CERTAINTY_TEMPERATURE, DUC_DIMENSIONS, TEMPERATURE
from mla_jax.parity.formula import Tensors
from mla_jax.parity.theirs import published
from mla_jax.parity.theirs.classifiers import Trial
from mla_jax.parity.theirs.clones import Clone, quiet, with_constants
from mla_jax.parity.theirs.recording import NO_SCHEDULER, Recorder, loader, softmaxes, to_numpy

WIDTH = 512  # written into get_indices, main_CFT.py:171


class DetachedRecorder(Recorder):
    """Also the contrastive loss, which is a module."""

    means_of = ("shared audio", "shared visual", "audio", "visual")

    def after_module(self, module: Any, inputs: Any, output: Any) -> None:
        super().after_module(module, inputs, output)
        if isinstance(module, self.trial.clone.stage1.SupConLoss):
            self.found[f"DUC loss{self.at}"] = to_numpy(output)


def detached(trial: Trial) -> Tensors:
    """One epoch of stage 1; from epoch 20 on with the split of the weights it starts from."""
    clone, column, case, _, model, *_ = trial
    found: Tensors = {}
    indices: tuple[list[int], list[int]] = [], []
    batches = [packet[:3] for packet in loader(clone.torch, case.training_batches(trial.dtype))]
    if column.epoch >= 20:
        indices = split(trial, batches)
        for at, chosen in zip(("audio to visual", "visual to audio"), indices, strict=True):
            found[f"dimensions that teach/{at}"] = np.zeros(case.encoders.feature_dim)
            found[f"dimensions that teach/{at}"][chosen] = 1
    learning = [*model.audio.parameters(), *model.visual.parameters(), *model.shared.parameters()]
    optimizer = trial.sgd(learning)
    features = {
        model.audio: lambda inputs, output: [("audio", output[0])],
        model.visual: lambda inputs, output: [("visual", output[0])],
    }
    recorder = DetachedRecorder(trial, features)
    with recorder.watching(optimizer):
        clone.stage1.train_epoch(
            trial.script.options, column.epoch, model.audio, model.visual, model.shared,
            clone.torch.device("cpu"), batches, optimizer, NO_SCHEDULER, *indices, TEMPERATURE,
            trial.script.options.weight,
        )  # fmt: skip
    found |= {name: value for name, value in recorder.found.items() if "/fused/" not in name}
    return found | (contrast(clone, trial.dtype) if column.epoch >= 20 else {})


def split(trial: Trial, batches: list[tuple[Any, ...]]) -> tuple[list[int], list[int]]:
    """The dimensions that teach, first to second and second to first, over the training set."""
    clone, model = trial.clone, trial.model
    constants = {"cuda": "cpu", WIDTH: trial.case.encoders.feature_dim}
    get_indices = with_constants(clone.stage1.get_indices, constants)
    single = [one for packet in batches for one in zip(*(x.split(1) for x in packet), strict=True)]
    with quiet():
        return get_indices(
            trial.script.options, model.audio, model.visual, clone.torch.device("cpu"), 0, single
        )  # fmt: skip


class FusedRecorder(Recorder):
    """Only the fused head learns."""

    def after_backward(self, loss: Any) -> None:
        """The loss of the batch, its joint logits and the gradients of the head."""
        ((logits, _),) = self.means
        self.means.clear()
        self.found[f"loss{self.at} total"] = to_numpy(loss)
        if self.batch == 1:
            self.found["logits/joint"] = to_numpy(logits)
            self.found |= rows.head_gradients(self.trial.gradients())


def fused(trial: Trial) -> Tensors:
    """An epoch of stage 2, its evaluation, and what happens in which epoch."""
    clone, _, case, dtype, model, *_ = trial
    torch = clone.torch
    optimizer, options = trial.sgd(model.fused.parameters()), trial.script.options
    options.temperature = CERTAINTY_TEMPERATURE
    parts = (
        model.audio.net, model.visual.net, model.fused, model.audio.classifier,
        model.visual.classifier, torch.device("cpu"),
    )  # fmt: skip
    batches = [packet[:3] for packet in loader(torch, case.training_batches(dtype))]
    recorder = FusedRecorder(trial, {})
    train = clone.stage2.train_combine_classifier_epoch
    with recorder.watching(optimizer):
        train(options, 0, *parts, batches, optimizer, NO_SCHEDULER)
    batches = [packet[:3] for packet in loader(torch, case.test_batches(dtype))]
    score, logits = softmaxes(
        torch, ("audio", "visual", "joint", "weights", "fused"),
        functools.partial(clone.stage2.valid_combine_classifier, options, *parts, batches),
    )  # fmt: skip
    found = recorder.found | rows.with_prefix(trial.tensors(), rows.TRAINED)
    weights = {"certainty weights/all": logits.pop("weights")}
    found |= rows.predictions(logits, {"fused": score}) | weights
    return found | calendar(trial)


def calendar(trial: Trial) -> Tensors:
    """Learning rates, the epochs before which dimensions are chosen, and the stages' lengths."""
    first, second = published.stage1(trial.clone, own_model=False), trial.script
    return rows.rates(first.rates) | {
        "epoch of the split/": np.array(first.splits),
        "epochs of the stages/": np.array([len(first.rates), len(second.rates)]),
    }


def fusion_module(trial: Trial) -> Tensors:
    """FiLM or gated fusion by itself: logits, loss and all gradients."""
    torch, (features, label) = trial.clone.torch, module_inputs(trial.dtype)
    z = {m: torch.tensor(x, requires_grad=True) for m, x in features.items()}
    *_, logits = trial.model(z["audio"], z["visual"])
    loss = torch.nn.CrossEntropyLoss()(logits, torch.tensor(label).long())
    loss.backward()
    found = {"logits/joint": to_numpy(logits), "loss/batch 1 total": to_numpy(loss)}
    found |= {f"gradient of the features/{m}": to_numpy(x.grad) for m, x in z.items()}
    return found | rows.head_gradients(trial.gradients())


def contrast(clone: Clone, dtype: Any) -> Tensors:
    """The DUC loss by itself: value and gradients."""
    features, label = module_inputs(dtype)
    z = {m: clone.torch.tensor(x, requires_grad=True) for m, x in features.items()}
    criterion = clone.stage1.SupConLoss(TEMPERATURE)
    chosen = map(list, DUC_DIMENSIONS)
    loss = criterion(z["audio"], z["visual"], *chosen, clone.torch.tensor(label))
    loss.backward()
    found = {"DUC loss/by itself": to_numpy(loss)}
    return found | {f"gradient of DUC/{m}": to_numpy(x.grad) for m, x in z.items()}
