"""The classifiers that the references train: their own ResNets, or narrow ones of our layers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mla_jax.convert import layouts
from mla_jax.convert.names import TO_FLAX, TO_TORCH, Row, Tensors
from mla_jax.encoders.small import Mlp
from mla_jax.parity import rows
from mla_jax.parity.cases import CLASSES, Case, comparable
from mla_jax.parity.columns import Column
from mla_jax.parity.theirs.clones import Clone, arguments

SHORT = {"audio": "a", "visual": "v", "text": "t"}
DIMML_HEADS = {
    "audio": "audio.classifier",
    "visual": "visual.classifier",
    "shared": "shared",
    "fused/joint": "fused.fc_out",
}


class Adapter(NamedTuple):
    """A classifier of a reference, or one with its interface, and its name map."""

    model: Any
    rows: list[Row]

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
            row.flax: TO_FLAX[row.kind](named[row.torch].detach().numpy()).copy()
            for row in self.rows
            if row.flax is not None and row.torch in named
        }

    def load(self, torch: Any, tensors: Tensors) -> None:
        """Puts tensors in our names into the model."""
        named = {
            row.torch: torch.tensor(np.ascontiguousarray(TO_TORCH[row.kind](tensors[row.flax])))
            for row in self.rows
            if row.flax is not None
        }
        self.model.load_state_dict(named, strict=False)

    def start(self, torch: Any, column: Column, case: Case, dtype: Any) -> Tensors:
        """Loads the weights that both sides start from; returns them under their prefix."""
        initial = column.weights(case, self.tensors(), dtype)
        self.load(torch, initial)
        return rows.with_prefix(initial, rows.INITIAL)


def mla(clone: Clone, column: Column, case: Case, few_ties: bool) -> Adapter:
    """What the MLA repository's loop trains in one column.

    The ResNet case has its own initialisation (``main.py:718-719``).
    """
    if case.resnet:
        clone.utils.setup_seed(0)
        model = clone.basic_model.AVClassifier(arguments(**column.options))
        model.apply(clone.utils.weight_init)
    else:
        model = _narrow(clone, column, case)
    return _adapted(clone, model, case, _towers(column), _heads(column), few_ties)


def dimml(clone: Clone, case: Case, few_ties: bool) -> Adapter:
    """Both unimodal classifiers of DI-MML, the shared head and the fused one, as one module."""
    torch, D = clone.torch, case.encoders.feature_dim
    model = torch.nn.Module()
    if case.resnet:
        torch.manual_seed(0)
        options = arguments(embed_dim=D)
        model.audio = clone.stage1.AClassifier(options)
        model.visual = clone.stage1.VClassifier(options)
    else:
        model.audio, model.visual = (_unimodal(torch, case, m) for m in case.modalities)
    model.shared = torch.nn.Linear(D, CLASSES)
    model.fused = clone.stage2.ConcatFusion(2 * D, CLASSES)
    towers = {m: f"{m}.net" for m in case.modalities}
    return _adapted(clone, model, case, towers, DIMML_HEADS, few_ties)


def of_module(module: Any, heads: Mapping[str, str]) -> Adapter:
    """A fusion module by itself; ``heads``: ``{our name: attribute}``."""
    return Adapter(module, _rows(module, {theirs: f"head/{m}" for m, theirs in heads.items()}))


def wrapped(torch: Any, model: Any) -> Any:
    """A module that holds another as ``module``, as ``DataParallel`` would."""
    outer = torch.nn.Module()
    outer.module, outer.forward = model, lambda *inputs: model(*inputs)
    return outer


def _adapted(
    clone: Clone,
    model: Any,
    case: Case,
    towers: Mapping[str, str],
    heads: Mapping[str, str],
    few_ties: bool,
) -> Adapter:
    """``towers`` and ``heads``: ``{our name: attribute}``."""
    if not case.resnet:
        places = {theirs: f"encoder/{m}" for m, theirs in towers.items()}
        places |= {theirs: f"head/{name}" for name, theirs in heads.items()}
        return Adapter(model, _rows(model, places))
    named = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    backbones = dict.fromkeys(towers, "resnet18")
    manifest = {"backbones": backbones, "towers": towers, "heads": heads}
    adapter = Adapter(model, layouts.rows_of(named, manifest))
    adapter.load(clone.torch, comparable(adapter.tensors(), few_ties))
    return adapter


def _rows(model: Any, places: Mapping[str, str]) -> list[Row]:
    """The name map of a narrow classifier, whose layers have our names within ``places``."""
    kinds = {1: "same", 2: "linear", 4: "convolution"}
    found = []
    for name, tensor in model.state_dict().items():
        for theirs, ours in places.items():
            if not name.startswith(f"{theirs}.") or not tensor.ndim:  # a batch counter
                continue
            *layer, leaf = name.removeprefix(f"{theirs}.").split(".")
            leaf = {"weight": "kernel" if tensor.ndim > 1 else "scale"}.get(leaf, leaf)
            path = f"params/{ours}"
            if leaf.startswith("running_"):
                path, leaf = f"batch_stats/{ours.split('/')[1]}", leaf.removeprefix("running_")
            path = "/".join([path, *layer, leaf])
            found.append(Row(name, path, kinds[tensor.ndim], tuple(tensor.shape)))
    return found


def _towers(column: Column) -> dict[str, str]:
    """The attributes by whose names OGM finds the encoders (``main.py:345,393``)."""
    if len(column.modalities) > 2:
        return {m: f"mae_{SHORT[m]}" for m in column.modalities}
    return {m: f"{m}_net" for m in column.modalities}


def _heads(column: Column) -> dict[str, str]:
    """``{our head: attribute}`` of the heads that learn."""
    if column.kind == "mla":
        return {"shared": "fusion_module.fc_out"}
    if column.method == "qmf":
        return {m: f"{m}_fc" for m in column.modalities}
    if column.options.get("fusion_method") == "sum":
        return {"audio": "fusion_module.fc_x", "visual": "fusion_module.fc_y"}
    return {"joint": "fusion_module.fc_out"}


def _tower(torch: Any, case: Case, modality: str) -> Any:
    """The layers of ``encoders.small``, under our names, but for a mean over positions."""
    nn, module, before = torch.nn, case.encoders.modules[modality], case.inputs[modality][-1]
    D, tower = case.encoders.feature_dim, torch.nn.Sequential()
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


def _narrow(clone: Clone, column: Column, case: Case) -> Any:
    """The interface of the MLA repository's classifiers, with its own fusion."""
    nn, D, towers = clone.torch.nn, case.encoders.feature_dim, _towers(column)
    count, qmf = len(towers), column.method == "qmf"

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for m, name in towers.items():
                setattr(self, name, _tower(clone.torch, case, m))
                if qmf:
                    setattr(self, f"{m}_fc", nn.Linear(D, CLASSES))
            if column.kind == "mla":
                self.fusion_module = clone.basic_model.ConcatFusion(D, CLASSES)
            elif column.options.get("fusion_method") == "sum":
                self.fusion_module = clone.basic_model.SumFusion(D, CLASSES)
            elif not qmf:
                kinds = {2: clone.basic_model.ConcatFusion, 3: clone.basic_model.ConcatFusion3}
                self.fusion_module = kinds[count](count * D, CLASSES)

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            if count == 3:  # tokens, padding mask, images, spectrograms
                text, _, visual, audio = inputs
                inputs = (audio, visual, text)
            pairs = zip(towers.items(), inputs, strict=True)
            z = {m: _pooled(getattr(self, name)(x)) for (m, name), x in pairs}
            if qmf:
                return tuple(getattr(self, f"{m}_fc")(features) for m, features in z.items())
            alone = column.kind == "mla" or count == 3
            return tuple(z.values()) if alone else self.fusion_module(*z.values())

    return Classifier()


def _unimodal(torch: Any, case: Case, modality: str) -> Any:
    """An encoder and its private head, as DI-MML's first stage has them."""

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = _tower(torch, case, modality)
            self.classifier = torch.nn.Linear(case.encoders.feature_dim, CLASSES)

        def forward(self, x: Any, examples: int = 0) -> tuple[Any, Any]:
            del examples
            features = _pooled(self.net(x))
            return features, self.classifier(features)

    return Classifier()
