"""Small files with the reference's numbers, replayed where neither it nor PyTorch is at hand.

    python -m mla_jax.parity --reference=PATH --dimml=PATH --write_fixtures=tests/fixtures

Inputs and weights are by formula (``formula.py``), so a fixture holds outputs only.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from mla_jax.config import fields
from mla_jax.convert.names import Tensors
from mla_jax.functional.heads import apply_head
from mla_jax.functional.losses import cross_entropy
from mla_jax.functional.optimizers import StepInfo, create_optimizer
from mla_jax.parity import columns, compare, formula, others, ours
from mla_jax.parity.cases import (
    MODALITIES,
    MODES,
    TEST_BATCHES,
    Case,
    formula_tensors,
    padded,
    resnet_case,
    toy_case,
)

LIMIT = 200_000  # bytes a file
STEPS, KEEP_EVERY, BATCHES_PER_EPOCH, DECAY_EVERY = 60, 10, 4, 5

RESNET_ROWS = ("features", "loss/", "gradient of audio", "gradient of visual", "head after")
"""What the ResNet fixture keeps: one batch of training and the features in evaluation."""

OPTIMIZERS = {
    "sgd": {"momentum": 0.9, "weight_decay": 1e-2},
    "sgd_nesterov": {"momentum": 0.9, "weight_decay": 1e-2, "nesterov": True},
    "sgd_plain": {"momentum": 0.0, "weight_decay": 1e-2},
    "adam": {"weight_decay": 1e-2},
    "adamw": {"weight_decay": 1e-2},
}
"""The settings under which our optimisers must be ``torch.optim``'s, with its arguments' names."""


METHODS = (
    "concat",
    "sum",
    "ogm_three",
    "ogm_ge",
    "qmf",
    "dimml_duc",
    "dimml_fused",
    "film",
    "gated",
)
"""The columns of other methods that are stored; what the rest adds is little, and takes time."""


def small_resnet_case() -> Case:
    """``resnet_case`` with one batch, and only those gradients that a small file has room for."""
    return resnet_case()._replace(batches=1, named=("conv1/kernel", "layer4_1/bn2/scale"))


def write(mla: Any, dimml: Any, path: pathlib.Path, say: Callable[[str], None]) -> int:
    """Writes the fixtures of the references given, which should run in float64; returns 0."""
    path.mkdir(parents=True, exist_ok=True)
    for name in METHODS:
        if (loaded := dimml if columns.needs_dimml(name) else mla) is not None:
            found = others.theirs(loaded, name, others.toy(name, np.float32), np.float64)
            found = {n: v for n, v in found.items() if not n.startswith(others.INITIAL)}
            _save(path / f"method_{name}.npz", found, say)
    if mla is not None:
        write_mla(mla, path, say)
    return 0


def write_mla(loaded: Any, path: pathlib.Path, say: Callable[[str], None]) -> None:
    """The fixtures of MLA, its encoders and its optimisers."""
    from mla_jax.parity import theirs

    for name, mode in MODES.items():
        case = toy_case()
        adapter = theirs.toy_classifier(loaded, case)
        found = theirs.train(loaded, adapter, case, mode, np.float64)
        found |= {f"trained/{n}": value for n, value in adapter.tensors().items()}
        found |= theirs.evaluate(loaded, adapter, case, mode, np.float64)
        inputs = [x.astype(np.float64) for x in projection_inputs(case.encoders.feature_dim)]
        found |= theirs.projection_updates(loaded, mode, *inputs, 10)
        _save(path / f"toy_{name}.npz", found, say)
    case = small_resnet_case()
    adapter = theirs.av_classifier(loaded)
    adapter.load(loaded.torch, formula_tensors(case))
    found = theirs.train(loaded, adapter, case, MODES["released"], np.float64)
    adapter.load(loaded.torch, formula_tensors(case))
    found |= theirs.evaluate(loaded, adapter, case, MODES["released"], np.float64)
    kept = {name: value for name, value in found.items() if name.startswith(RESNET_ROWS)}
    _save(path / "resnet18.npz", kept, say)
    rates = theirs.step_lr(loaded, 1e-3, 100)
    trajectories = {f"{name}/": theirs_optimizer(loaded.torch, name) for name in OPTIMIZERS}
    _save(path / "optimizers.npz", {"StepLR over 100 epochs/": rates, **trajectories}, say)


def replay(name: str, stored: Tensors) -> dict[str, compare.Verdict]:
    """Our numbers against a stored fixture; ``name`` is its file's, without the ending."""
    if name.startswith("method_"):
        return replay_method(name.removeprefix("method_"), stored)
    if name == "resnet18":
        found = _replay_resnet(stored)
    elif name == "optimizers":
        found = {
            "StepLR over 100 epochs/": ours.step_lr(toy_case()._replace(learning_rate=1e-3), 100)
        }
        found |= {f"{name}/": ours_optimizer(name) for name in OPTIMIZERS}
    else:
        case, mode = toy_case(), MODES[name.removeprefix("toy_")]
        program = ours.Program(case, mode)
        trained = {n.removeprefix("trained/"): v for n, v in stored.items() if "trained/" in n}
        stored = {n: v for n, v in stored.items() if "trained/" not in n}
        found = ours.train(program, formula_tensors(case), np.float32)
        found |= ours.evaluate(program, trained, np.float32)
        inputs = projection_inputs(case.encoders.feature_dim)
        found |= ours.projection_updates(program.switches, *inputs, 10)
    return compare.compare(stored, {n: v for n, v in found.items() if n in stored})


def replay_method(name: str, stored: Tensors) -> dict[str, compare.Verdict]:
    """Our numbers of another method."""
    own = others.ours(name, others.toy(name, np.float32), stored, np.float32)
    return others.verdicts(stored, own)


def _replay_resnet(stored: Tensors) -> Tensors:
    """Features, losses and gradients; the visual sub-step takes the head that audio left."""
    case = small_resnet_case()
    tree = traverse_util.unflatten_dict(formula_tensors(case), sep="/")
    head = tree["params"]["head"]["shared"]
    batch, found = case.batch(0), dict(stored)
    for m in MODALITIES:
        stats = tree["batch_stats"][m]
        apply = functools.partial(case.encoders.apply, m)

        def loss(params: Any, head: Any, apply: Any = apply, stats: Any = stats, m: str = m) -> Any:
            z, _ = apply(params, stats, batch["inputs"][m], True)
            return cross_entropy(apply_head(head, z), batch["label"]).mean(), z

        params = tree["params"]["encoder"][m]
        grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (value, z), gradients = grad(params, head)
        found[f"loss/batch 1 {m}"], found[f"features, training/{m}"] = value, z
        flat = traverse_util.flatten_dict(gradients, sep="/")
        found |= {f"gradient of {m} {name}/{m}": flat[name] for name in case.named}
        evaluate = jax.jit(lambda p, s, x, apply=apply: apply(p, s, x, False)[0])
        size = max(TEST_BATCHES)
        features = [
            evaluate(params, stats, padded(test["inputs"][m], size))[: len(test["label"])]
            for test in case.test_batches()
        ]
        found[f"features, evaluation/{m}"] = np.concatenate(features)
        prefix = f"head after each sub-step/batch 1 {m}"
        head = {name: stored[f"{prefix} {name}"] for name in ("kernel", "bias")}
    return found


def projection_inputs(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Head gradients ``[N, C, D]`` and features ``[N, B, D]`` for updates of the projection alone.

    The features are non-negative, as after a ReLU, and small, with a mean of 0.025.  From about
    0.05 on, denominators of the element-wise formula cross zero and the recursion is chaotic: after
    20 updates even two float64 implementations have nothing in common (docs/fidelity.md).
    """
    gradients = formula.uniform((20, 6, width), 41)
    features = np.maximum(formula.uniform((20, 8, width), 42), 0) / 10
    return gradients.astype(np.float32), features.astype(np.float32)


def theirs_optimizer(torch: Any, name: str) -> np.ndarray:
    """``float[STEPS / KEEP_EVERY, 7]``: parameters along 60 steps of ``torch.optim`` and StepLR."""
    weight = torch.nn.Parameter(torch.tensor(_start()))
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = kinds[name.split("_")[0]]([weight], lr=0.05, **OPTIMIZERS[name])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, DECAY_EVERY, 0.1)
    kept = []
    for step in range(STEPS):
        weight.grad = torch.tensor(_gradient(step)) + weight.detach() / 4
        optimizer.step()
        if (step + 1) % BATCHES_PER_EPOCH == 0:
            scheduler.step()
        if (step + 1) % KEEP_EVERY == 0:
            kept.append(weight.detach().numpy().copy())
    return np.stack(kept)


def ours_optimizer(name: str) -> np.ndarray:
    """The same trajectory from ``optim.py``."""
    config = ConfigDict(fields.base_config().optimizer)
    config.update({"name": name.split("_")[0], "learning_rate": 0.05, "decay_every": DECAY_EVERY})
    config.update(OPTIMIZERS[name])
    optimizer = create_optimizer(config, 100)
    weight = _start()
    state, kept = optimizer.init(weight), []
    for step in range(STEPS):
        info = StepInfo(*divmod(step, BATCHES_PER_EPOCH), BATCHES_PER_EPOCH)
        weight, state = optimizer.step(_gradient(step) + weight / 4, state, weight, info)
        if (step + 1) % KEEP_EVERY == 0:
            kept.append(np.asarray(weight))
    return np.stack(kept)


def _start() -> np.ndarray:
    return formula.uniform((7,), 1).astype(np.float32)


def _gradient(step: int) -> np.ndarray:
    return formula.uniform((7,), 100 + step).astype(np.float32)


def _save(path: pathlib.Path, found: Tensors, say: Callable[[str], None]) -> None:
    np.savez_compressed(path, **{n: _narrow(np.asarray(v)) for n, v in found.items()})
    size = path.stat().st_size
    say(f"{path}: {len(found)} quantities, {size} bytes")
    if size > LIMIT:
        raise ValueError(f"{path} has {size} bytes; fixtures stay below {LIMIT}")


def _narrow(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if value.dtype == np.float64 and value.ndim > 1 else value
