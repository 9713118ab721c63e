"""A narrow PyTorch classifier with the interface of the reference's, for fixtures and tests."""

from typing import Any

from mla_jax.convert.names import Row
from mla_jax.parity.cases import CLASSES, MODALITIES, Case


def classifier(torch: Any, case: Case) -> Any:
    """Two perceptrons and ``fusion_module.fc_out``; called with spectrograms and images.

    Its layers are those of ``encoders.small.Mlp``.
    """
    nn = torch.nn

    def tower(inputs: int, hidden: int, outputs: int) -> Any:
        first, second = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
        return nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(), second, nn.ReLU())

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for m in MODALITIES:
                hidden, width = case.encoders.modules[m].hidden, case.encoders.feature_dim
                setattr(self, f"{m}_net", tower(case.inputs[m][0], hidden, width))
            self.fusion_module = nn.Module()
            self.fusion_module.fc_out = nn.Linear(case.encoders.feature_dim, CLASSES)

        def forward(self, audio: Any, visual: Any) -> tuple[Any, Any]:
            return self.audio_net(audio.squeeze(1)), self.visual_net(visual)

    return Classifier()


def rows(case: Case) -> list[Row]:
    """The name map of ``classifier``."""
    found = []
    D = case.encoders.feature_dim
    for m in MODALITIES:
        inputs, hidden = case.inputs[m][0], case.encoders.modules[m].hidden
        own = []
        for theirs, ours, shape in (
            ("0", "Dense_0", (hidden, inputs)),
            ("3", "Dense_1", (D, hidden)),
        ):
            own.append(
                Row(f"{theirs}.weight", f"params/encoder/{m}/{ours}/kernel", "linear", shape)
            )
            own.append(Row(f"{theirs}.bias", f"params/encoder/{m}/{ours}/bias", "same", shape[:1]))
        norm = {
            "weight": f"params/encoder/{m}/BatchNorm_0/scale",
            "bias": f"params/encoder/{m}/BatchNorm_0/bias",
            "running_mean": f"batch_stats/{m}/BatchNorm_0/mean",
            "running_var": f"batch_stats/{m}/BatchNorm_0/var",
        }
        own += [Row(f"1.{name}", path, "same", (hidden,)) for name, path in norm.items()]
        found += [row._replace(torch=f"{m}_net.{row.torch}") for row in own]
    head = "params/head/shared"
    found.append(Row("fusion_module.fc_out.weight", f"{head}/kernel", "linear", (CLASSES, D)))
    found.append(Row("fusion_module.fc_out.bias", f"{head}/bias", "same", (CLASSES,)))
    return found
