"""Runs DI-MML's two training files and its fusion modules, from a clone, and records them."""

import itertools
import sys
import tempfile
from typing import Any
from unittest import mock

import numpy as np

from mla_jax.convert import layouts
from mla_jax.convert.names import Tensors
from mla_jax.parity import toy_convolutions
from mla_jax.parity.cases import CLASSES, Case, comparable
from mla_jax.parity.columns import (
    CERTAINTY_TEMPERATURE,
    DUC_DIMENSIONS,
    TEMPERATURE,
    fusion_inputs,
    training_batch,
)
from mla_jax.parity.joint_theirs import momentum, recorded_backward
from mla_jax.parity.reference import DetachedReference, arguments, quiet, with_constants
from mla_jax.parity.theirs import Adapter, by_collection, packet, to_numpy

HEADS = {
    "audio": "audio.classifier",
    "visual": "visual.classifier",
    "shared": "shared",
    "fused/joint": "fused.fc_out",
}
WIDTH = 512  # written into get_indices, main_CFT.py:171


def classifier(reference: DetachedReference, case: Case, few_ties: bool) -> Adapter:
    """Both unimodal classifiers, the shared head and the fused one, as one module.

    The ResNet case has the reference's own encoders and their initialisation.
    """
    torch, D = reference.torch, case.encoders.feature_dim
    model = torch.nn.Module()
    if case.name == "resnet18":
        torch.manual_seed(0)
        options = arguments(embed_dim=D)
        model.audio = reference.stage1.AClassifier(options)
        model.visual = reference.stage1.VClassifier(options)
    else:
        model.audio = toy_convolutions.unimodal_classifier(torch, case, "audio")
        model.visual = toy_convolutions.unimodal_classifier(torch, case, "visual")
    model.shared = torch.nn.Linear(D, CLASSES)
    model.fused = reference.stage2.ConcatFusion(2 * D, CLASSES)
    if case.name != "resnet18":
        rows = toy_convolutions.head_rows(HEADS, 0)
        for m in case.modalities:
            rows += toy_convolutions.tower_rows(case, m, f"{m}.net")
        return Adapter(model, rows)
    named = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    towers = {m: f"{m}.net" for m in case.modalities}
    backbones = dict.fromkeys(case.modalities, "resnet18")
    manifest = {"backbones": backbones, "towers": towers, "heads": HEADS}
    adapter = Adapter(model, layouts.rows_of(named, manifest))
    adapter.load(torch, comparable(adapter.tensors(), few_ties))
    return adapter


def packets(torch: Any, batches: Any) -> list[tuple[Any, ...]]:
    """Batches as its loaders yield them: spectrogram, images, label."""
    return [packet(torch, batch)[:3] for batch in batches]


def split(
    reference: DetachedReference, adapter: Adapter, case: Case, dtype: Any
) -> tuple[list[int], list[int]]:
    """The dimensions that teach, first to second and second to first, over the training set."""
    torch, model = reference.torch, adapter.model
    constants = {"cuda": "cpu", WIDTH: case.encoders.feature_dim}
    get_indices = with_constants(reference.stage1.get_indices, constants)
    loader = []
    for i in range(case.batches):
        (spectrogram, image, label), *_ = packets(torch, [training_batch(case, i, dtype)])
        one = [part.split(1) for part in (spectrogram, image, label)]
        loader += zip(*one, strict=True)
    with quiet():
        return get_indices(
            arguments(), model.audio, model.visual, torch.device("cpu"), 0, loader
        )  # fmt: skip


def detached(
    reference: DetachedReference, adapter: Adapter, case: Case, epoch: int, dtype: Any
) -> Tensors:
    """One epoch of stage 1; from epoch 20 on with the split of the weights it starts from."""
    torch, model = reference.torch, adapter.model
    found: Tensors = {}
    indices: tuple[list[int], list[int]] = [], []
    if epoch >= 20:
        indices = split(reference, adapter, case, dtype)
        for at, chosen in zip(("audio to visual", "visual to audio"), indices, strict=True):
            mask = np.zeros(case.encoders.feature_dim)
            mask[chosen] = 1
            found[f"dimensions that teach/{at}"] = mask
    learning = [*model.audio.parameters(), *model.visual.parameters(), *model.shared.parameters()]
    optimizer = torch.optim.SGD(learning, lr=case.learning_rate, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 70, 0.1)
    count, means = itertools.count(1), []
    batch = {"number": next(count)}

    def after_module(module: Any, inputs: Any, output: Any) -> None:
        number = batch["number"]
        if isinstance(module, torch.nn.CrossEntropyLoss):
            means.append((inputs[0], output))
        elif isinstance(module, reference.stage1.SupConLoss):
            found[f"DUC loss{_later(number)}/batch {number}"] = to_numpy(output)
        elif number == 1 and module in (model.audio, model.visual):
            m = "audio" if module is model.audio else "visual"
            found[f"features, training/{m}"] = to_numpy(output[0])

    def after_backward(loss: Any) -> None:
        number = batch["number"]
        found[f"loss{_later(number)}/batch {number} total"] = to_numpy(loss)
        if number == 1:
            names = ("shared audio", "shared visual", "audio", "visual")
            for name, (logits, mean) in zip(names, means, strict=True):
                found[f"logits/{name}"] = to_numpy(logits)
                found[f"loss/batch 1 {name}"] = to_numpy(mean)
            found.update(gradient_rows(adapter, case))
        means.clear()

    def after_step(*_: Any) -> None:
        number = batch["number"]
        found.update(by_collection(_without_fused(adapter.tensors()), number))
        if number == case.batches:
            found.update(momentum(adapter, optimizer, number))
        batch["number"] = next(count)

    optimizer.register_step_post_hook(after_step)
    hook = torch.nn.modules.module.register_module_forward_hook(after_module)
    loader = packets(torch, [training_batch(case, i, dtype) for i in range(case.batches)])
    try:
        with quiet(), recorded_backward(torch, after_backward):
            reference.stage1.train_epoch(
                arguments(), epoch, model.audio, model.visual, model.shared,
                torch.device("cpu"), loader, optimizer, scheduler,
                *indices, TEMPERATURE, 1,
            )  # fmt: skip
    finally:
        hook.remove()
    return found


def fused(reference: DetachedReference, adapter: Adapter, case: Case, dtype: Any) -> Tensors:
    """An epoch of stage 2 and its evaluation."""
    torch, model = reference.torch, adapter.model
    found: Tensors = {}
    model.zero_grad()
    optimizer = torch.optim.SGD(
        model.fused.parameters(), lr=case.learning_rate, momentum=0.9, weight_decay=1e-4
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 70, 0.1)
    batch = {"number": 1}

    def after_module(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(module, torch.nn.CrossEntropyLoss):
            number = batch["number"]
            found[f"loss{_later(number)}/batch {number} total"] = to_numpy(output)
            if number == 1:
                found["logits/joint"] = to_numpy(inputs[0])

    def after_step(*_: Any) -> None:
        number = batch["number"]
        if number == 1:
            found.update(gradient_rows(adapter, case._replace(named=())))
        found.update(by_collection(adapter.tensors(), number))
        if number == case.batches:
            found.update(momentum(adapter, optimizer, number))
        batch["number"] += 1

    parts = (
        model.audio.net, model.visual.net, model.fused, model.audio.classifier,
        model.visual.classifier, torch.device("cpu"),
    )  # fmt: skip
    options = arguments(temperature=CERTAINTY_TEMPERATURE)
    optimizer.register_step_post_hook(after_step)
    hook = torch.nn.modules.module.register_module_forward_hook(after_module)
    loader = packets(torch, [training_batch(case, i, dtype) for i in range(case.batches)])
    try:
        with quiet():
            reference.stage2.train_combine_classifier_epoch(
                options, 0, *parts, loader, optimizer, scheduler
            )
    finally:
        hook.remove()

    seen: list[Any] = []

    def after_softmax(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Softmax):
            seen.append((to_numpy(inputs[0]), to_numpy(output)))

    hook = torch.nn.modules.module.register_module_forward_hook(after_softmax)
    loader = packets(torch, case.test_batches(dtype))
    try:
        with quiet():
            score = reference.stage2.valid_combine_classifier(options, *parts, loader)
    finally:
        hook.remove()
    found |= {"accuracy on a ragged test set/fused": np.array(score)}
    rows = (
        "unimodal logits, evaluation/audio", "unimodal logits, evaluation/visual",
        "joint logits, evaluation/joint", "", "fused logits/fused",
    )  # fmt: skip
    for i, row in enumerate(rows):
        if row:
            found[row] = np.concatenate([inputs for inputs, _ in seen[i :: len(rows)]])
            name = row.partition("/")[2]
            found[f"predictions/{name}"] = found[row].argmax(-1)
    weights = [output.T for _, output in seen[3 :: len(rows)]]
    found["certainty weights/all"] = np.concatenate(weights)
    return found


def gradient_rows(adapter: Adapter, case: Case) -> Tensors:
    """Rows of the gradients that the last backward pass left."""
    named = adapter.model.named_parameters()
    gradients = adapter.ours({n: p.grad for n, p in named if p.grad is not None})
    found = {
        f"gradient of the head/{name.removeprefix('params/head/')}": value
        for name, value in gradients.items()
        if name.startswith("params/head/")
    }
    for m in case.modalities:
        for name in case.named:
            found[f"gradient of {m} {name}/{m}"] = gradients[f"params/encoder/{m}/{name}"]
    return found


def calendar(reference: DetachedReference, learning_rate: float) -> Tensors:
    """What ``main_CFT.main`` does in which epoch, at the defaults of its command line.

    It runs whole, but for its data, its models and the three functions compared elsewhere.
    """
    torch, stage1, stage2 = reference.torch, reference.stage1, reference.stage2
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

    def model(options: Any) -> Any:
        del options
        return torch.nn.Linear(1, 1)

    instead = {
        "CramedDataset": lambda options, mode: [0],
        "AClassifier": model,
        "VClassifier": model,
        "train_epoch": train_epoch,
        "valid": lambda *inputs: (0.0, 0.0),
        "get_indices": get_indices,
    }
    with tempfile.TemporaryDirectory() as folder, quiet():
        command = ["main_CFT.py", "--dataset=CREMAD", "--train", "--no_cuda"]
        command += [f"--ckpt_path={folder}/ckpt", f"--logs_path={folder}/logs"]
        command += [f"--learning_rate={learning_rate}"]
        with mock.patch.multiple(stage1, **instead), mock.patch.object(sys, "argv", command):
            stage1.main()
        with mock.patch.object(sys, "argv", ["main_CFT_stage2.py", "--dataset=CREMAD"]):
            epochs = len(rates), stage2.get_arguments().epochs
    return {
        f"StepLR over {len(rates)} epochs/": np.array(rates),
        "epoch of the split/": np.array(splits),
        "epochs of the stages/": np.array(epochs),
    }


def fusion_module(reference: DetachedReference, name: str, dtype: Any) -> Tensors:
    """FiLM or gated fusion by itself: logits, loss and all gradients."""
    torch = reference.torch
    features, label, tensors = fusion_inputs(name, dtype)
    D = features["audio"].shape[1]
    kind = {"film": reference.stage2.FiLM, "gated": reference.stage2.GatedFusion}[name]
    module = kind(D, D, CLASSES)
    heads = {"film_visual": "fc", "joint": "fc_out"}
    if name == "gated":
        heads = {"gate_audio": "fc_x", "gate_visual": "fc_y", "joint": "fc_out"}
    adapter = Adapter(module, toy_convolutions.head_rows(heads, 0))
    adapter.load(torch, tensors)
    z = {m: torch.tensor(x, requires_grad=True) for m, x in features.items()}
    *_, logits = module(z["audio"], z["visual"])
    loss = torch.nn.CrossEntropyLoss()(logits, torch.tensor(label).long())
    loss.backward()
    found = {"logits/joint": to_numpy(logits), "loss/batch 1 total": to_numpy(loss)}
    found |= {f"gradient of the features/{m}": to_numpy(x.grad) for m, x in z.items()}
    gradients = adapter.ours({n: p.grad for n, p in module.named_parameters()})
    for n, value in gradients.items():
        found[f"gradient of the head/{n.removeprefix('params/head/')}"] = value
    return found


def contrast(reference: DetachedReference, dtype: Any) -> Tensors:
    """The DUC loss by itself: value and gradients."""
    torch = reference.torch
    features, label, _ = fusion_inputs("film", dtype)
    z = {m: torch.tensor(x, requires_grad=True) for m, x in features.items()}
    criterion = reference.stage1.SupConLoss(TEMPERATURE)
    chosen = map(list, DUC_DIMENSIONS)
    loss = criterion(z["audio"], z["visual"], *chosen, torch.tensor(label))
    loss.backward()
    found = {"DUC loss/by itself": to_numpy(loss)}
    return found | {f"gradient of DUC/{m}": to_numpy(x.grad) for m, x in z.items()}


def _without_fused(tensors: Tensors) -> Tensors:
    return {n: value for n, value in tensors.items() if "/fused/" not in n}


def _later(number: int) -> str:
    return "" if number == 1 else ", later batches"
