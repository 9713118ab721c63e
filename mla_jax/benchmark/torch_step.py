"""The same training in PyTorch: our own, tuned, and the published loop as it is.

The tuned one is what somebody who knows PyTorch would write: channels last, the largest kernels
chosen by measurement, one fused optimiser, and on a GPU bfloat16 and ``torch.compile``.  It trains
MLA by the paper's equations: a modality at a time, with the projection of the head's gradient.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mla_jax.benchmark.contender import Contender, Spec, random_batch

WIDTHS = (64, 128, 256, 512)


def prepare(spec: Spec) -> Contender:
    """The contender that ``spec`` names, on the GPU where PyTorch finds one."""
    import torch

    torch.set_num_threads(spec.cores)
    torch.manual_seed(0)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda:0" if cuda else "cpu")
    make = published if spec.name == "published" else tuned
    step, dtype = make(torch, spec, device)

    def train(batches: int) -> None:
        step(batches)
        if cuda:
            torch.cuda.synchronize()

    def device_memory() -> int | None:
        return torch.cuda.max_memory_allocated() if cuda else None

    name = torch.cuda.get_device_name() if cuda else "cpu"

    def about() -> dict[str, str]:
        return {"version": f"torch {torch.__version__}", "device": name, "dtype": dtype}

    return Contender(train, about, device_memory)


# ---- Tuned --------------------------------------------------------------------------------------


def tuned(torch: Any, spec: Spec, device: Any) -> tuple[Callable[[int], None], str]:
    """MLA by the paper, one batch after another."""
    cuda = device.type == "cuda"
    if cuda:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32 where bfloat16 does not reach
    encoders = {m: resnet18(torch, shape[-1]) for m, shape in spec.inputs.items()}
    encoders = {m: e.to(device, memory_format=torch.channels_last) for m, e in encoders.items()}
    head = torch.nn.Linear(WIDTHS[-1], spec.classes).to(device)
    settings = {
        "lr": spec.optimizer["learning_rate"],
        "momentum": spec.optimizer["momentum"],
        "weight_decay": spec.optimizer["weight_decay"],
        "fused": True,
    }
    sgd = {m: torch.optim.SGD(e.parameters(), **settings) for m, e in encoders.items()}
    head_sgd = torch.optim.SGD(head.parameters(), **settings)
    P = torch.eye(WIDTHS[-1], device=device)
    inputs, label = batch_of(torch, spec, device)

    def objective(encoder: Any, x: Any) -> tuple[Any, Any]:
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
            h = encoder(x)
        h = h.float().reshape(spec.batch_size, -1, h.shape[-1]).mean(1)
        return torch.nn.functional.cross_entropy(head(h), label), h

    if cuda:
        # Without this the second encoder, whose shapes differ, is compiled for symbolic ones, which
        # rules out the layouts that suit convolutions.
        objective = torch.compile(objective, dynamic=False)

    @torch.no_grad()
    def project(h: Any, alpha: float) -> None:
        """The gradient by P, then P by the mean feature (equations 2 and 3)."""
        head.weight.grad = head.weight.grad @ P
        k = P @ h.mean(0)
        P.sub_(torch.outer(k, k) / (alpha + h.mean(0) @ k))

    def step(batches: int) -> None:
        for _ in range(batches):
            for m, encoder in encoders.items():
                loss, h = objective(encoder, inputs[m])
                loss.backward()
                project(h.detach(), 0.1)
                for optimizer in (sgd[m], head_sgd):
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)

    return step, "bfloat16" if cuda else "float32"


def batch_of(torch: Any, spec: Spec, device: Any) -> tuple[dict[str, Any], Any]:
    """Inputs ``[N, C, H, W]`` in channels-last memory, frames as examples, and labels."""
    inputs, label = random_batch(spec)
    for m, x in inputs.items():
        frames = torch.tensor(x.reshape(-1, *x.shape[-3:])).permute(0, 3, 1, 2)
        inputs[m] = frames.to(device).contiguous(memory_format=torch.channels_last)
    return inputs, torch.tensor(label, dtype=torch.int64, device=device)


def resnet18(torch: Any, channels: int) -> Any:
    """``[N, C, H, W]`` -> ``[N, 512]``: He et al., 2016, without the classifier."""
    nn = torch.nn
    Module: Any = nn.Module

    class Block(Module):
        def __init__(self, before: int, width: int, stride: int):
            super().__init__()
            self.conv1, self.bn1 = convolution(before, width, 3, stride), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = convolution(width, width, 3, 1), nn.BatchNorm2d(width)
            self.shortcut = nn.Identity()
            if stride != 1 or before != width:
                projection = convolution(before, width, 1, stride)
                self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(width))

        def forward(self, x: Any) -> Any:
            y = torch.relu(self.bn1(self.conv1(x)))
            return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))

    def convolution(before: int, width: int, size: int, stride: int) -> Any:
        return nn.Conv2d(before, width, size, stride, size // 2, bias=False)

    layers = [convolution(channels, WIDTHS[0], 7, 2), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    before = WIDTHS[0]
    for stage, width in enumerate(WIDTHS):
        for stride in (1 if stage == 0 else 2, 1):
            layers.append(Block(before, width, stride))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


# ---- As published -------------------------------------------------------------------------------


def published(torch: Any, spec: Spec, device: Any) -> tuple[Callable[[int], None], str]:
    """The clone's own ``train_epoch`` with its own model and optimiser.

    Its projection never runs (Q1), so that it computes a little less than the paper's.  The batch
    lies on the device already: its loading is not part of this.
    """
    from mla_jax.parity.theirs import clones, recording
    from mla_jax.parity.theirs import published as scripts

    cuda = device.type == "cuda"
    command = {"dataset": "CREMAD", "lorb": "base", "gs_flag": True}
    held = contextlib.ExitStack()  # until the process ends
    clone = held.enter_context(clones.loaded("reference", spec.reference, on_cpu=not cuda))
    chosen = scripts.mla(clone, True, command)
    (model,) = chosen.models
    model = torch.nn.DataParallel(model.to(device), device_ids=[0] if cuda else None)
    optimizer = chosen.optimizer_of(model.parameters(), chosen.rates[0])
    plugin = clone.utils.GSPlugin()
    audio, visual = random_batch(spec)[0].values()
    label = np.arange(spec.batch_size) % 6  # CREMA-D's classes: the clone has no head for others
    batch = {"inputs": {"audio": audio, "visual": visual}, "label": label, "index": label}
    (parts,) = recording.loader(torch, [batch])
    parts = tuple(part.to(device) for part in parts)

    def step(batches: int) -> None:
        with clones.quiet():
            clone.main.train_epoch(
                chosen.options, 0, model, device, [parts] * batches, optimizer,
                recording.NO_SCHEDULER, gs_plugin=plugin, gs_flag=True,
            )  # fmt: skip

    return step, "float32"
