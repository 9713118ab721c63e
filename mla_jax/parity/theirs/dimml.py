"""Runs DI-MML's two training files and its fusion modules."""

import functools
import sys
import tempfile
from typing import Any
from unittest import mock

import numpy as np

from mla_jax.convert.names import Tensors
from mla_jax.parity import rows
from mla_jax.parity.cases import CLASSES, Case, module_inputs
from mla_jax.parity.columns import CERTAINTY_TEMPERATURE, DUC_DIMENSIONS, TEMPERATURE, Column
from mla_jax.parity.theirs import classifiers
from mla_jax.parity.theirs.classifiers import Adapter
from mla_jax.parity.theirs.clones import Clone, arguments, quiet, with_constants
from mla_jax.parity.theirs.recording import (
    Recorder,
    packet,
    sgd,
    softmaxes,
    to_numpy,
    training_packets,
)

WIDTH = 512  # written into get_indices, main_CFT.py:171
DETACHED_MEANS = ("shared audio", "shared visual", "audio", "visual")
"""The mean cross-entropies in the order in which ``train_epoch`` computes them."""


class DetachedRecorder(Recorder):
    """Also the contrastive loss, which is a module."""

    def after_module(self, module: Any, inputs: Any, output: Any) -> None:
        super().after_module(module, inputs, output)
        if type(module).__name__ == "SupConLoss":
            self.found[f"DUC loss{self.at}"] = to_numpy(output)


def detached(clone: Clone, column: Column, case: Case, dtype: Any, few_ties: bool) -> Tensors:
    """One epoch of stage 1; from epoch 20 on with the split of the weights it starts from."""
    torch, adapter = clone.torch, classifiers.dimml(clone, case, few_ties)
    model, found = adapter.model, adapter.start(clone.torch, column, case, dtype)
    indices: tuple[list[int], list[int]] = [], []
    if column.epoch >= 20:
        indices = split(clone, adapter, case, dtype)
        for at, chosen in zip(("audio to visual", "visual to audio"), indices, strict=True):
            found[f"dimensions that teach/{at}"] = np.zeros(case.encoders.feature_dim)
            found[f"dimensions that teach/{at}"][chosen] = 1
    learning = [*model.audio.parameters(), *model.visual.parameters(), *model.shared.parameters()]
    optimizer, scheduler = sgd(torch, learning, case)
    features = {
        model.audio: lambda inputs, output: [("audio", output[0])],
        model.visual: lambda inputs, output: [("visual", output[0])],
    }
    recorder = DetachedRecorder(torch, adapter, case, features, DETACHED_MEANS)
    loader = [packet[:3] for packet in training_packets(torch, case, dtype)]
    with recorder.watching(optimizer):
        clone.stage1.train_epoch(
            arguments(), column.epoch, model.audio, model.visual, model.shared,
            torch.device("cpu"), loader, optimizer, scheduler, *indices, TEMPERATURE, 1,
        )  # fmt: skip
    found |= {name: value for name, value in recorder.found.items() if "/fused/" not in name}
    return found | (contrast(clone, dtype) if column.epoch >= 20 else {})


def split(clone: Clone, adapter: Adapter, case: Case, dtype: Any) -> tuple[list[int], list[int]]:
    """The dimensions that teach, first to second and second to first, over the training set."""
    torch, model = clone.torch, adapter.model
    constants = {"cuda": "cpu", WIDTH: case.encoders.feature_dim}
    get_indices = with_constants(clone.stage1.get_indices, constants)
    loader = []  # of single examples
    for spectrogram, image, label, _ in training_packets(torch, case, dtype):
        loader += zip(spectrogram.split(1), image.split(1), label.split(1), strict=True)
    with quiet():
        return get_indices(
            arguments(), model.audio, model.visual, torch.device("cpu"), 0, loader
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
            self.found |= rows.head_gradients(self.adapter.gradients())


def fused(clone: Clone, column: Column, case: Case, dtype: Any, few_ties: bool) -> Tensors:
    """An epoch of stage 2, its evaluation, and what happens in which epoch."""
    torch, adapter = clone.torch, classifiers.dimml(clone, case, few_ties)
    model, found = adapter.model, adapter.start(clone.torch, column, case, dtype)
    optimizer, scheduler = sgd(torch, model.fused.parameters(), case)
    recorder = FusedRecorder(torch, adapter, case, {})
    parts = (
        model.audio.net, model.visual.net, model.fused, model.audio.classifier,
        model.visual.classifier, torch.device("cpu"),
    )  # fmt: skip
    options = arguments(temperature=CERTAINTY_TEMPERATURE)
    loader = [packet[:3] for packet in training_packets(torch, case, dtype)]
    with recorder.watching(optimizer):
        clone.stage2.train_combine_classifier_epoch(
            options, 0, *parts, loader, optimizer, scheduler
        )
    loader = [packet(torch, batch)[:3] for batch in case.test_batches(dtype)]
    score, logits = softmaxes(
        torch, ("audio", "visual", "joint", "weights", "fused"),
        functools.partial(clone.stage2.valid_combine_classifier, options, *parts, loader),
    )  # fmt: skip
    found |= recorder.found | rows.with_prefix(adapter.tensors(), rows.TRAINED)
    found["certainty weights/all"] = logits.pop("weights")
    return found | rows.predictions(logits, {"fused": score}) | calendar(clone, case)


def calendar(clone: Clone, case: Case) -> Tensors:
    """What ``main_CFT.main`` does in which epoch, at the defaults of its command line.

    It runs whole, but for its data, its models and the three functions compared elsewhere.
    """
    rates: list[float] = []
    splits: list[int] = []

    def train_epoch(*inputs: Any) -> tuple[float, ...]:
        optimizer, scheduler = inputs[7:9]
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        return (0.0,) * 4

    def get_indices(*inputs: Any) -> tuple[list[int], list[int]]:
        del inputs
        splits.append(len(rates))
        return [], []

    instead = {
        "CramedDataset": lambda options, mode: [0],
        "AClassifier": lambda options: clone.torch.nn.Linear(1, 1),
        "VClassifier": lambda options: clone.torch.nn.Linear(1, 1),
        "train_epoch": train_epoch,
        "valid": lambda *inputs: (0.0, 0.0),
        "get_indices": get_indices,
    }
    with tempfile.TemporaryDirectory() as folder, quiet():
        command = ["main_CFT.py", "--dataset=CREMAD", "--train", "--no_cuda"]
        command += [f"--ckpt_path={folder}/ckpt", f"--logs_path={folder}/logs"]
        command += [f"--learning_rate={case.learning_rate}"]
        with mock.patch.multiple(clone.stage1, **instead), mock.patch.object(sys, "argv", command):
            clone.stage1.main()
        with mock.patch.object(sys, "argv", ["main_CFT_stage2.py", "--dataset=CREMAD"]):
            epochs = len(rates), clone.stage2.get_arguments().epochs
    return {
        f"StepLR over {len(rates)} epochs/": np.array(rates),
        "epoch of the split/": np.array(splits),
        "epochs of the stages/": np.array(epochs),
    }


def fusion_module(clone: Clone, column: Column, case: Case, dtype: Any, few_ties: bool) -> Tensors:
    """FiLM or gated fusion by itself: logits, loss and all gradients."""
    del few_ties
    torch, D = clone.torch, case.encoders.feature_dim
    if column.method == "film":
        module, heads = clone.stage2.FiLM(D, D, CLASSES), {"film_visual": "fc", "joint": "fc_out"}
    else:
        module = clone.stage2.GatedFusion(D, D, CLASSES)
        heads = {"gate_audio": "fc_x", "gate_visual": "fc_y", "joint": "fc_out"}
    adapter = classifiers.of_module(module, heads)
    found = adapter.start(torch, column, case, dtype)
    features, label = module_inputs(dtype)
    z = {m: torch.tensor(x, requires_grad=True) for m, x in features.items()}
    *_, logits = module(z["audio"], z["visual"])
    loss = torch.nn.CrossEntropyLoss()(logits, torch.tensor(label).long())
    loss.backward()
    found |= {"logits/joint": to_numpy(logits), "loss/batch 1 total": to_numpy(loss)}
    found |= {f"gradient of the features/{m}": to_numpy(x.grad) for m, x in z.items()}
    return found | rows.head_gradients(adapter.gradients())


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
