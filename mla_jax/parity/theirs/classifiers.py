"""The classifiers that the references train: their own ResNets, or narrow ones of our layers."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mla_jax.convert import layouts
from mla_jax.convert.names import TO_FLAX, TO_TORCH, Row
from mla_jax.encoders import REGISTRY
from mla_jax.encoders.small import Mlp
from mla_jax.parity import rows
from mla_jax.parity.cases import CLASSES, Case, comparable
from mla_jax.parity.columns import Column
from mla_jax.parity.formula import Tensors
from mla_jax.parity.theirs import published, transformers
from mla_jax.parity.theirs.clones import Clone
from mla_jax.parity.theirs.published import Published

SHORT = {"audio": "a", "visual": "v", "text": "t"}
DIMML_HEADS = {
    "audio": "audio.classifier",
    "visual": "visual.classifier",
    "shared": "shared",
    "fused/joint": "fused.fc_out",
}
FUSION_HEADS = {
    "film": {"film_visual": "fc", "joint": "fc_out"},
    "gated": {"gate_audio": "fc_x", "gate_visual": "fc_y", "joint": "fc_out"},
}


class Trial(NamedTuple):
    """A column's classifier in its clone, its name map, and what it runs on."""

    clone: Clone
    column: Column
    case: Case
    dtype: Any
    model: Any
    rows: list[Row]
    published: Published | None = None
    """What the script that trains it chooses; a fusion module by itself has none."""

    @property
    def script(self) -> Published:
        """``published`` of a column that a script trains."""
        assert self.published is not None
        return self.published

    def sgd(self, parameters: Iterable[Any]) -> Any:
        """The script's optimiser for these parameters, at the learning rate of the case."""
        return self.script.optimizer_of(parameters, self.case.learning_rate)

    def tensors(self) -> Tensors:
        """All parameters and running statistics, in our names and axis order."""
        return self.ours(dict(self.model.state_dict()))

    def gradients(self) -> Tensors:
        """What the last backward pass left, in our names and axis order."""
        named = self.model.named_parameters()
        return self.ours({n: p.grad for n, p in named if p.grad is not None})

    def ours(self, named: dict[str, Any]) -> Tensors:
        """The tensors among ``named`` that the map knows, in our names and axis order."""
        named = {n.replace("fc_out.module.", "fc_out."): t for n, t in named.items()}
        return {
            row.ours: TO_FLAX[row.kind](named[row.torch].detach().numpy()).copy()
            for row in self.rows
            if row.torch in named
        }

    def load(self, tensors: Tensors) -> None:
        """Puts tensors in our names into the model."""
        as_tensor = self.clone.torch.tensor
        named = {
            row.torch: as_tensor(np.ascontiguousarray(TO_TORCH[row.kind](tensors[row.ours])))
            for row in self.rows
        }
        self.model.load_state_dict(named, strict=False)

    def start(self) -> Tensors:
        """Loads the weights that both sides start from; returns them under their prefix."""
        initial = self.column.weights(self.case, self.tensors(), self.dtype)
        self.load(initial)
        return rows.with_prefix(initial, rows.INITIAL)


def trial(clone: Clone, column: Column, case: Case, dtype: Any, few_ties: bool) -> Trial:
    """The classifier that a column trains.

    The ResNet case has the reference's own initialisation, made ``comparable``.
    """
    if column.kind == "module":
        chosen, (model, towers, heads) = None, _fusion_module(clone, column, case)
    elif column.clone == "dimml":
        chosen, (model, towers, heads) = _dimml(clone, column, case)
    else:
        chosen, (model, towers, heads) = _mla(clone, column, case)
    if case.published:
        named = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        names = {kind: name for name, kind in REGISTRY.items()}
        backbones = {m: names[type(module)] for m, module in case.encoders.modules.items()}
        manifest = {"backbones": backbones, "towers": towers, "heads": heads}
        mapped = [row for row in layouts.rows_of(named, manifest) if row.flax]
        found = Trial(clone, column, case, dtype, model, mapped, chosen)
        found.load(comparable(found.tensors(), few_ties))
        return found
    places = {theirs: f"encoder/{m}" for m, theirs in towers.items()}
    places |= {theirs: f"head/{name}" for name, theirs in heads.items()}
    return Trial(clone, column, case, dtype, model, _narrow_rows(model, places), chosen)


def wrapped(torch: Any, model: Any) -> Any:
    """A module that holds another as ``module``, as ``DataParallel`` would."""
    outer = torch.nn.Module()
    outer.module, outer.forward = model, lambda *inputs: model(*inputs)
    return outer


Parts = tuple[Any, dict[str, str], dict[str, str]]
"""A model, and ``{our name: attribute}`` of its encoders and of the heads that learn."""


def _mla(clone: Clone, column: Column, case: Case) -> tuple[Published, Parts]:
    """What the MLA repository's loop trains; OGM finds encoders by name (``main.py:345,393``)."""
    with transformers.narrow(clone, case) if case.vocabulary else contextlib.nullcontext():
        chosen = published.mla(clone, case.published, column.command)
    chosen.options.dataset = "CREMAD"  # has as many classes as the case
    towers = {m: f"{m}_net" for m in column.modalities}
    heads = {"joint": "fusion_module.fc_out"}
    if column.command["lorb"] == "m3ae":
        towers = dict(zip(column.modalities, ("mae_a", "mae_v", "mae_t"), strict=False))
    if column.kind == "mla":
        heads = {"shared": "fusion_module.fc_out"}
    elif column.method == "qmf":
        heads = {m: f"{m}_fc" for m in column.modalities}
    elif column.options.get("fusion_method") == "sum":
        heads = {"audio": "fusion_module.fc_x", "visual": "fusion_module.fc_y"}
    if not case.published:
        return chosen, (_narrow(clone, column, case, towers), towers, heads)
    return chosen, (chosen.models[0], towers, heads)


def _narrow(clone: Clone, column: Column, case: Case, towers: Mapping[str, str]) -> Any:
    """The interface of the MLA repository's classifiers, with its own fusion."""
    nn, fusions, D, count = (
        clone.torch.nn,
        clone.basic_model,
        case.encoders.feature_dim,
        len(towers),
    )
    model = nn.Module()
    for m, name in towers.items():
        model.add_module(name, _tower(nn, case, m))
        if column.method == "qmf":
            model.add_module(f"{m}_fc", nn.Linear(D, CLASSES))
    if column.options.get("fusion_method") == "sum":
        model.fusion_module = fusions.SumFusion(D, CLASSES)
    elif count == 3:
        model.fusion_module = fusions.ConcatFusion3(3 * D, CLASSES)
    else:
        model.fusion_module = fusions.ConcatFusion(D if column.kind == "mla" else 2 * D, CLASSES)

    def forward(*inputs: Any) -> tuple[Any, ...]:
        if count == 3:  # tokens, padding mask, images, spectrograms
            text, _, visual, audio = inputs
            inputs = (audio, visual, text)
        pairs = zip(towers.items(), inputs, strict=True)
        z = {m: _pooled(getattr(model, name)(x)) for (m, name), x in pairs}
        if column.method == "qmf":
            return tuple(getattr(model, f"{m}_fc")(features) for m, features in z.items())
        alone = column.kind == "mla" or count == 3
        return tuple(z.values()) if alone else model.fusion_module(*z.values())

    model.forward = forward
    return model


def _dimml(clone: Clone, column: Column, case: Case) -> tuple[Published, Parts]:
    """Both unimodal classifiers of DI-MML, the shared head and the fused one, as one module."""
    nn, D = clone.torch.nn, case.encoders.feature_dim
    model, chosen = nn.Module(), published.stage1(clone, case.published)
    if case.published:
        model.audio, model.visual, _ = chosen.models
    else:
        model.audio, model.visual = (_unimodal(nn, case, m) for m in case.modalities)
    model.shared = nn.Linear(D, CLASSES)
    model.fused = clone.stage2.ConcatFusion(2 * D, CLASSES)
    if column.kind == "fused":
        chosen = published.stage2(clone, model.fused)
    return chosen, (model, {m: f"{m}.net" for m in case.modalities}, DIMML_HEADS)


def _unimodal(nn: Any, case: Case, modality: str) -> Any:
    """An encoder and its private head, as DI-MML's first stage has them."""
    model = nn.Module()
    model.net = _tower(nn, case, modality)
    model.classifier = nn.Linear(case.encoders.feature_dim, CLASSES)

    def forward(x: Any, examples: int = 0) -> tuple[Any, Any]:
        del examples
        features = _pooled(model.net(x))
        return features, model.classifier(features)

    model.forward = forward
    return model


def _fusion_module(clone: Clone, column: Column, case: Case) -> Parts:
    kind = {"film": clone.stage2.FiLM, "gated": clone.stage2.GatedFusion}[column.method]
    D = case.encoders.feature_dim
    return kind(D, D, CLASSES), {}, FUSION_HEADS[column.method]


def _tower(nn: Any, case: Case, modality: str) -> Any:
    """The layers of ``encoders.small``, under our names, but for a mean over positions."""
    module, before = case.encoders.modules[modality], case.inputs[modality][-1]
    D, tower = case.encoders.feature_dim, nn.Sequential()
    if isinstance(module, Mlp):
        tower.append(nn.Flatten())  # the loop puts in a channel
        tower.add_module("Dense_0", nn.Linear(before, module.hidden))
        tower.add_module("BatchNorm_0", nn.BatchNorm1d(module.hidden))
        tower.append(nn.ReLU())
        tower.add_module("Dense_1", nn.Linear(module.hidden, D))
    else:
        tower.add_module("Conv_0", nn.Conv2d(before, D, 3, padding=1, bias=False))
        tower.add_module("BatchNorm_0", nn.BatchNorm2d(D))
    return tower.append(nn.ReLU())


def _pooled(x: Any) -> Any:
    return x.mean((2, 3)) if x.ndim > 2 else x


def _narrow_rows(model: Any, places: Mapping[str, str]) -> list[Row]:
    """The name map of a narrow model, whose layers have our names within ``places``."""
    kinds = {1: "same", 2: "linear", 4: "convolution"}
    found = []
    for name, tensor in model.state_dict().items():
        for theirs, ours in places.items():
            if not name.startswith(f"{theirs}.") or not tensor.ndim:  # a batch counter
                continue
            *layer, leaf = name.removeprefix(f"{theirs}.").split(".")
            collection, place = "params", ours
            if leaf.startswith("running_"):
                collection, place = "batch_stats", ours.removeprefix("encoder/")
                leaf = leaf.removeprefix("running_")
            elif leaf == "weight":
                leaf = "kernel" if tensor.ndim > 1 else "scale"
            path = "/".join([collection, place, *layer, leaf])
            found.append(Row(name, path, kinds[tensor.ndim], tuple(tensor.shape)))
    return found
