"""The kinds of checkpoint file: the reference's classifiers, or one backbone by itself."""

from typing import NamedTuple

from mla_jax.convert.names import Tensors
from mla_jax.errors import UserError

TOWERS = ("audio_net", "visual_net")
"""The reference's ResNets, in the order in which it calls them (``models/basic_model.py:36``)."""


class Tower(NamedTuple):
    """One encoder within a checkpoint."""

    backbone: str
    prefix: str
    modality: str
    """The default name of its modality; empty: the user must give one."""
    channels: int = 0
    """Input channels of the reference's own class; 0: any, or fixed by the backbone."""


class Layout(NamedTuple):
    """A kind of checkpoint file."""

    title: str
    begins: tuple[str, ...]
    """A file has this layout if the name of one of its tensors begins with one of these."""
    towers: tuple[Tower, ...]
    convention: str = ""
    """The default convention of its weights."""
    original: bool = False
    """Whether the names are those of the backbone's own code (``Backbone.original``)."""
    qmf: bool = True
    """Whether the reference's class has QMF's heads."""

    @property
    def whole(self) -> bool:
        """Whether it is a classifier with heads, rather than a backbone by itself."""
        return bool(self.towers[0].prefix)


LAYOUTS = (
    Layout(
        "the reference's classifier of two ResNet-18",
        ("audio_net.", "visual_net."),
        (Tower("resnet18", TOWERS[0], "audio", 1), Tower("resnet18", TOWERS[1], "visual", 3)),
    ),
    Layout(
        "the reference's classifier of CAV-MAE and two M3AE",
        ("mae_t.",),
        (
            Tower("cavmae_audio", "mae_a", "audio"),
            Tower("m3ae_image", "mae_v", "image"),
            Tower("m3ae_text", "mae_t", "text"),
        ),
        "released",
    ),
    Layout(
        "the reference's classifier of two CAV-MAE",
        ("mae_a.patch_embed", "mae_v.patch_embed", "mae_a.blocks_a", "mae_v.blocks_v"),
        (Tower("cavmae_audio", "mae_a", "audio"), Tower("cavmae_visual", "mae_v", "visual")),
        "pretraining",  # its data set normalises the filter banks (dataset/dataset.py:313-314)
        qmf=False,
    ),
    Layout(
        "the reference's classifier of two M3AE",
        ("mae_a.", "mae_v."),
        (Tower("m3ae_text", "mae_a", "text"), Tower("m3ae_image", "mae_v", "image")),
        "released",
    ),
    Layout(
        "a CAV-MAE",
        ("patch_embed_a.", "patch_embed_v.", "blocks_a.", "blocks_v."),
        (Tower("cavmae_audio", "", "audio"), Tower("cavmae_visual", "", "visual")),
        "pretraining",
    ),
    Layout(
        "an M3AE in PyTorch",
        ("encoder.blocks.",),
        (Tower("m3ae_text", "", "text"), Tower("m3ae_image", "", "image")),
        "released",  # MLA's conversion; MLA orders patches differently from M3AE (quirk Q19)
    ),
    Layout(
        "an M3AE of its own code",
        ("encoder/Block_",),
        (Tower("m3ae_text", "", "text"), Tower("m3ae_image", "", "image")),
        "pretraining",
        original=True,
    ),
    Layout(
        "a ResNet-18 without its classifier", ("conv1.", "layer1."), (Tower("resnet18", "", ""),)
    ),
)


def identify(tensors: Tensors, source: str) -> Layout:
    """The layout of a state dict whose prefix was removed; ``UserError`` if it is unknown."""
    for layout in LAYOUTS:
        if any(name.startswith(layout.begins) for name in tensors):
            return layout
    names = ", ".join(sorted(tensors)[:5])
    raise UserError(
        f"{source} is neither a classifier of the reference (audio_net.*, mae_a.*) nor an M3AE, a "
        f"CAV-MAE or a ResNet-18 (conv1.*, layer1.*): it begins with {names}; rename its "
        "tensors like those of one of these"
    )
