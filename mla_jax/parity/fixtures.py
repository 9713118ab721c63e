"""Small files with the reference's numbers, for tests without the reference or PyTorch.

    python -m mla_jax.parity --reference=PATH --dimml=PATH --write_fixtures=tests/fixtures
    python -m mla_jax.parity --gcnet=PATH --mmin=PATH --if_mmin=PATH --write_fixtures=tests/fixtures

Inputs and weights are by formula (``formula.py``), so a fixture holds only outputs; those of
methods for missing modalities also hold the inputs and weights of their cases.
"""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mla_jax.config import fields
from mla_jax.functional.optimizers import StepInfo, create_optimizer
from mla_jax.parity import cases, compare, formula, missing_view_rows, ours, rows, theirs
from mla_jax.parity.cases import Case
from mla_jax.parity.columns import COLUMNS, MISSING, MLA, Column
from mla_jax.parity.formula import Tensors
from mla_jax.parity.ours.compiled import CompiledMethod, learning_rates
from mla_jax.parity.theirs import classifiers

LIMIT = 200_000  # bytes per file
PACKED, INDEX = "all values", "their shapes, as JSON"
STEPS, KEEP_EVERY, BATCHES_PER_EPOCH, DECAY_EVERY = 60, 10, 4, 5

RESNET_ROWS = ("features", "loss/", "gradient of audio", "gradient of visual", "head after")
"""The rows of the ResNet fixture: one training batch and the features in evaluation."""

OPTIMIZERS = {
    "sgd": {"momentum": 0.9, "weight_decay": 1e-2},
    "sgd_nesterov": {"momentum": 0.9, "weight_decay": 1e-2, "nesterov": True},
    "sgd_plain": {"momentum": 0.0, "weight_decay": 1e-2},
    "adam": {"weight_decay": 1e-2},
    "adamw": {"weight_decay": 1e-2},
}
"""The settings in which our optimisers must equal ``torch.optim``'s, with its argument names."""


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
"""The stored columns of other methods; the rest would add little and take time."""

OF_COLUMNS = {
    **{f"method_{name}": name for name in METHODS},
    **{f"toy_{name}": name for name in MLA},
    **{f"missing_{name}": name for name in MISSING},
}
"""``{file: column}``."""


def small_resnet_case() -> Case:
    """``resnet_case`` with one batch, and only the gradients that fit into a small file."""
    case = cases.resnet_case()
    return case._replace(batches=1, named=("conv1/kernel", "layer4_1/bn2/scale"))


def write(clones: Mapping[str, Any], path: pathlib.Path, say: Callable[[str], None]) -> int:
    """Writes the fixtures of the clones given, which should run in float64; returns 0."""
    path.mkdir(parents=True, exist_ok=True)
    for file, name in OF_COLUMNS.items():
        column = COLUMNS[name]
        if clone := clones.get(column.clone):
            found = theirs.run(clone, column, _case(column), np.float64)
            if column.published:
                steady = missing_view_rows.steady if column.kind == "correlation" else dict
                found = packed(steady(found))
            else:
                found = {n: v for n, v in found.items() if not n.startswith(rows.INITIAL)}
            _save(path / f"{file}.npz", found, say)
    if clone := clones.get("reference"):
        case, column = small_resnet_case(), COLUMNS["released"]
        trial = classifiers.trial(clone, column, case, np.float64, few_ties=False)
        weights = _resnet_weights(trial.tensors())
        found = {}
        for part in (theirs.mla.train, theirs.mla.evaluate):
            trial.load(weights)
            found |= part(trial)
        kept = {name: value for name, value in found.items() if name.startswith(RESNET_ROWS)}
        _save(path / "resnet18.npz", kept, say)
        column = COLUMNS["mla_three"]
        trial = classifiers.trial(clone, column, column.case(np.float64), np.float64, False)
        trial.start()
        _save(path / "transformers.npz", theirs.mla.evaluate(trial), say)
        rates = rows.rates(trial.script.rates)
        trajectories = {f"{name}/": theirs_optimizer(clone.torch, name) for name in OPTIMIZERS}
        _save(path / "optimizers.npz", rates | trajectories, say)
    return 0


def replay(name: str, stored: Tensors) -> dict[str, compare.Verdict]:
    """Our numbers against a stored fixture; ``name`` is its file's, without the ending."""
    if name == "resnet18":
        found = _replay_resnet()
        found = {n: value for n, value in found.items() if n.startswith(RESNET_ROWS)}
    elif name == "transformers":
        compiled = CompiledMethod(COLUMNS["mla_three"], COLUMNS["mla_three"].case(np.float32))
        found = ours.mla.evaluate(
            compiled, compiled.column.weights(compiled.case, compiled.shapes())
        )
    elif name == "optimizers":
        found = learning_rates(100)
        found |= {f"{name}/": ours_optimizer(name) for name in OPTIMIZERS}
    else:
        column = COLUMNS[OF_COLUMNS[name]]
        found = ours.run(column, _case(column), stored, np.float32)
    return compare.compare(rows.quantities(stored), found)


def packed(found: Tensors) -> Tensors:
    """Hundreds of small tensors as one of float32, since each separate one takes 250 bytes more."""
    found = {name: np.asarray(value) for name, value in found.items()}
    index = {n: [*v.shape] for n, v in found.items()}
    whole = [n for n, v in found.items() if not np.issubdtype(v.dtype, np.floating)]
    values = np.concatenate([v.ravel() for v in found.values()]).astype(np.float32)
    text = json.dumps({"shapes": index, "integers": whole})
    return {PACKED: values, INDEX: np.frombuffer(text.encode(), np.uint8)}


def unpacked(stored: Tensors) -> Tensors:
    """The tensors of a fixture, packed or not."""
    if PACKED not in stored:
        return stored
    index = json.loads(stored[INDEX].tobytes())
    shapes = index["shapes"]
    ends = np.cumsum([int(np.prod(shape, dtype=int)) for shape in shapes.values()])
    parts = np.split(stored[PACKED], ends[:-1])
    found = {n: part.reshape(shapes[n]) for n, part in zip(shapes, parts, strict=True)}
    return {n: v.astype(np.int64) if n in index["integers"] else v for n, v in found.items()}


def _case(column: Column) -> Case | None:
    return None if column.published else column.toy()


def _replay_resnet() -> Tensors:
    """One batch of training, and features, both with the weights by formula."""
    compiled = CompiledMethod(COLUMNS["released"], small_resnet_case())
    weights = _resnet_weights(compiled.shapes())
    found = ours.mla.train(compiled, compiled.state(weights))
    shown, _ = compiled.evaluate(weights)
    return found | rows.with_prefix(shown["features"], "features, evaluation/")


def _resnet_weights(own: Mapping[str, Any]) -> Tensors:
    return cases.weights({name: value.shape for name, value in own.items()}, 5)


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
    arrays: dict[str, Any] = {n: _narrow(np.asarray(v)) for n, v in found.items()}
    np.savez_compressed(path, **arrays)
    size = path.stat().st_size
    say(f"{path}: {len(found)} quantities, {size} bytes")
    if size > LIMIT:
        raise ValueError(f"{path} has {size} bytes; fixtures stay below {LIMIT}")


def _narrow(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if value.dtype == np.float64 and value.ndim > 1 else value
