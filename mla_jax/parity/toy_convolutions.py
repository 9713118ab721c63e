"""Narrow convolutional PyTorch classifiers with the interfaces of the references', for fixtures."""

from typing import Any

from mla_jax.convert.names import Row
from mla_jax.parity.cases import CLASSES, Case
from mla_jax.parity.columns import Column

SHORT = {"audio": "a", "visual": "v", "text": "t"}


def tower(torch: Any, case: Case, modality: str) -> Any:
    """The layers of ``encoders.small.Conv2D`` up to its mean over positions."""
    nn, module = torch.nn, case.encoders.modules[modality]
    layers, before = [], case.inputs[modality][-1]
    for i, width in enumerate((*module.widths, module.feature_dim)):
        if i:
            layers.append(nn.MaxPool2d(2))
        convolution = nn.Conv2d(before, width, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers)


def tower_rows(case: Case, modality: str, at: str) -> list[Row]:
    """The name map of ``tower``, held under the attribute ``at``."""
    module, before = case.encoders.modules[modality], case.inputs[modality][-1]
    params, stats = f"params/encoder/{modality}", f"batch_stats/{modality}"
    found = []
    for i, width in enumerate((*module.widths, module.feature_dim)):
        kernel = (width, before, 3, 3)
        found.append(
            Row(f"{at}.{4 * i}.weight", f"{params}/Conv_{i}/kernel", "convolution", kernel)
        )
        norm = {
            "weight": f"{params}/BatchNorm_{i}/scale",
            "bias": f"{params}/BatchNorm_{i}/bias",
            "running_mean": f"{stats}/BatchNorm_{i}/mean",
            "running_var": f"{stats}/BatchNorm_{i}/var",
        }
        found += [Row(f"{at}.{4 * i + 1}.{n}", path, "same", (width,)) for n, path in norm.items()]
        before = width
    return found


def head_rows(heads: dict[str, str], inputs: int, outputs: int = CLASSES) -> list[Row]:
    """Rows of linear layers, ``{our head: theirs}``."""
    found = []
    for ours, theirs in heads.items():
        kernel = Row(f"{theirs}.weight", f"params/head/{ours}/kernel", "linear", (outputs, inputs))
        found += [kernel, Row(f"{theirs}.bias", f"params/head/{ours}/bias", "same", (outputs,))]
    return found


def tower_names(column: Column) -> dict[str, str]:
    """The attributes by whose names OGM finds the encoders (``main.py:345,393``)."""
    if len(column.modalities) > 2:
        return {m: f"mae_{SHORT[m]}" for m in column.modalities}
    return {m: f"{m}_net" for m in column.modalities}


def head_names(column: Column) -> dict[str, str]:
    """``{our head: attribute}`` of the heads that learn."""
    if column.options.get("modulation") == "QMF":
        return {m: f"{m}_fc" for m in column.modalities}
    if column.options.get("fusion_method") == "sum":
        return {"audio": "fusion_module.fc_x", "visual": "fusion_module.fc_y"}
    return {"joint": "fusion_module.fc_out"}


def joint_classifier(torch: Any, basic_model: Any, case: Case, column: Column) -> Any:
    """The classifier that the MLA repository's loop trains in one column, with its own fusion."""
    D, count, names = case.encoders.feature_dim, len(column.modalities), tower_names(column)
    qmf = column.options.get("modulation") == "QMF"

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for m, name in names.items():
                setattr(self, name, tower(torch, case, m))
                if qmf:
                    setattr(self, f"{m}_fc", torch.nn.Linear(D, CLASSES))
            if column.options.get("fusion_method") == "sum":
                self.fusion_module = basic_model.SumFusion(D, CLASSES)
            elif not qmf:
                kind = basic_model.ConcatFusion if count == 2 else basic_model.ConcatFusion3
                self.fusion_module = kind(count * D, CLASSES)

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            if count == 3:  # token, padding mask, image, spectrogram
                text, _, visual, audio = inputs
                inputs = (audio, visual, text)
            z = [
                getattr(self, name)(x).mean((2, 3))
                for name, x in zip(names.values(), inputs, strict=True)
            ]
            if qmf:
                return tuple(getattr(self, f"{m}_fc")(f) for m, f in zip(names, z, strict=True))
            return tuple(z) if count == 3 else self.fusion_module(*z)

    return Classifier()


def unimodal_classifier(torch: Any, case: Case, modality: str) -> Any:
    """An encoder and its private head, as DI-MML's first stage has them."""

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tower(torch, case, modality)
            self.classifier = torch.nn.Linear(case.encoders.feature_dim, CLASSES)

        def forward(self, x: Any, examples: int = 0) -> tuple[Any, Any]:
            del examples
            features = self.net(x).mean((2, 3))
            return features, self.classifier(features)

    return Classifier()
