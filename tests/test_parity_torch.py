"""Live against PyTorch, where it is installed: a ResNet-18 of our own, and the optimisers."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mla_jax.config import fields
from mla_jax.convert import resnet
from mla_jax.convert.names import TO_FLAX, TO_TORCH, to_torch
from mla_jax.encoders import Encoders
from mla_jax.encoders.resnet import ResNet18
from mla_jax.functional.heads import apply_head
from mla_jax.functional.losses import cross_entropy
from mla_jax.functional.optimizers import StepInfo, create_optimizer
from mla_jax.parity import compare, fixtures, formula
from mla_jax.parity.cases import comparable

torch = pytest.importorskip("torch")

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
D, C, CHANNELS, LR = 32, 6, 3, 1e-2
CLIPS = formula.uniform((6, 2, 32, 32, CHANNELS), 11)
LABELS = formula.labels(6, C, 12)


class Block(torch.nn.Module):
    """Two 3x3 convolutions and a shortcut, as the specification of the network describes them."""

    def __init__(self, before, after, stride):
        super().__init__()
        convolution = functools.partial(torch.nn.Conv2d, bias=False)
        self.conv1 = convolution(before, after, 3, stride, 1)
        self.bn1 = torch.nn.BatchNorm2d(after)
        self.conv2 = convolution(after, after, 3, 1, 1)
        self.bn2 = torch.nn.BatchNorm2d(after)
        self.downsample = torch.nn.Sequential()
        if stride > 1 or before != after:
            shortcut = convolution(before, after, 1, stride)
            self.downsample = torch.nn.Sequential(shortcut, torch.nn.BatchNorm2d(after))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Classifier(torch.nn.Module):
    """ResNet-18 with torchvision's names, its frames in the batch, and a linear head."""

    def __init__(self):
        super().__init__()
        widths = [D // 8, D // 8, D // 4, D // 2, D]
        self.conv1 = torch.nn.Conv2d(CHANNELS, widths[0], 7, 2, 3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(widths[0])
        self.maxpool = torch.nn.MaxPool2d(3, 2, 1)
        for i in range(1, 5):
            first = Block(widths[i - 1], widths[i], 2 if i > 1 else 1)
            stage = torch.nn.Sequential(first, Block(widths[i], widths[i], 1))
            setattr(self, f"layer{i}", stage)
        self.fc = torch.nn.Linear(D, C)

    def features(self, clips):
        x = torch.tensor(np.moveaxis(clips, -1, 2).reshape(-1, CHANNELS, *clips.shape[2:4]))
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return x.reshape(len(clips), -1, D, x.shape[2] * x.shape[3]).mean((1, 3))

    def loss(self):
        logits = self.fc(self.features(CLIPS))
        return torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS).long())


ROWS = resnet.rows(D, CHANNELS)
ENCODERS = Encoders({"clip": ResNet18(feature_dim=D, dtype=jnp.float64)}, D)
TOLERANCE = 1e-9  # in float64; in float32 a single ReLU tie changes a gradient by percents


def initial():
    """Our variables and PyTorch's model in float64, from one set of weights by the name map."""
    shapes = {
        row.flax: TO_FLAX[row.kind](np.broadcast_to(np.float32(0), row.shape)).shape
        for row in ROWS
        if row.flax
    }
    flat = comparable(formula.tensors(shapes, 3), few_ties=True)
    head = formula.tensors({"kernel": (D, C), "bias": (C,)}, 4)
    model = Classifier()
    named = to_torch(flat, ROWS, "formula")
    named |= {"fc.weight": head["kernel"].T, "fc.bias": head["bias"]}
    named = {name: torch.tensor(np.array(value)) for name, value in named.items()}
    model.load_state_dict(named, strict=True)  # the map covers the model exactly
    tree = traverse_util.unflatten_dict(flat, sep="/") | {"head": head}
    tree = jax.tree.map(lambda value: jnp.asarray(value, jnp.float64), tree)
    return {"encoder": tree["params"], "head": tree["head"]}, tree["batch_stats"], model.double()


def objective(params, stats):
    z, stats = ENCODERS.apply("clip", params["encoder"], stats, CLIPS, True)
    return cross_entropy(apply_head(params["head"], z), LABELS).mean(), (z, stats)


gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))


def in_torch_order(params, stats):
    """Our parameters (or gradients) and statistics under PyTorch's names and axis order."""
    tree = {"params": params["encoder"], "batch_stats": stats}
    flat = {n: np.asarray(v) for n, v in traverse_util.flatten_dict(tree, sep="/").items()}
    named = {r.torch: TO_TORCH[r.kind](flat[r.flax]) for r in ROWS if r.kind != "counter"}
    named |= {"fc.weight": params["head"]["kernel"].T, "fc.bias": params["head"]["bias"]}
    return {n: np.asarray(v) for n, v in named.items()}


def assert_close(theirs, ours, tolerance):
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        both = np.asarray(value), np.asarray(ours[name])
        absolute, relative = compare.difference("any", *both)
        # A bias that the next normalisation takes out again has a gradient of rounding errors.
        assert relative <= tolerance or absolute <= 1e-14, f"{name}: {relative:.1e}"


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def test_forward_loss_and_every_gradient(double):
    params, stats, model = initial()
    with torch.no_grad():
        expected = model.eval().features(CLIPS)
    evaluate = jax.jit(lambda p, s: ENCODERS.apply("clip", p, s, CLIPS, False)[0])
    assert_close({"eval": expected}, {"eval": evaluate(params["encoder"], stats)}, TOLERANCE)
    seen = []
    model.fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    loss = model.train().loss()
    loss.backward()
    (value, (z, stats)), gradients = gradient(params, stats)
    assert_close({"train": seen[0], "loss": loss.item()}, {"train": z, "loss": value}, TOLERANCE)
    running = dict(model.named_buffers())
    ours = in_torch_order(gradients, stats)
    theirs = {n: p.grad.numpy() for n, p in model.named_parameters()}
    theirs |= {n: running[n].numpy() for n in ours if n.split(".")[-1].startswith("running")}
    assert len(theirs) == 62 + 40
    assert_close(theirs, ours, TOLERANCE)


def test_parameters_after_1_3_and_10_sgd_steps(double):
    params, stats, model = initial()
    model.train()
    config = fields.base_config().optimizer
    config.learning_rate = LR
    optimizer = create_optimizer(config, 10)
    state = optimizer.init(params)
    theirs = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    for step in range(1, 11):
        theirs.zero_grad()
        model.loss().backward()
        theirs.step()
        (_, (_, stats)), gradients = gradient(params, stats)
        params, state = optimizer.step(gradients, state, params, StepInfo(0, step, 10))
        if step in (1, 3, 10):
            expected = {n: v.numpy() for n, v in model.state_dict().items() if "num_b" not in n}
            assert_close(expected, in_torch_order(params, stats), TOLERANCE)


@pytest.mark.parametrize("name", fixtures.OPTIMIZERS)
def test_optimizers_over_60_steps_with_step_lr(name):
    # Adam's bias correction, 1 - 0.999**n, is float32 in optax and float64 in PyTorch: up to
    # 5e-6 of the largest parameter.  SGD agrees to 1e-7.
    theirs, ours = fixtures.theirs_optimizer(torch, name), fixtures.ours_optimizer(name)
    tolerance = 1e-5 if "adam" in name else 1e-6
    with np.load(FIXTURES / "optimizers.npz") as stored:
        assert_close(
            {"live": theirs, "stored": theirs},
            {"live": ours, "stored": stored[f"{name}/"]},
            tolerance,
        )
