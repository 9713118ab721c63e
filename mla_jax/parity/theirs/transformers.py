"""The MLA repository's classifiers of transformers, made narrow and runnable without a GPU.

Their own code runs, at the width and depth of our size ``tiny``.  What it imports from timm, an
attention and a perceptron, and the stochastic depth that returns nothing (Q13) are replaced.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any
from unittest import mock

from ml_collections import ConfigDict

from mla_jax.encoders.transformer import SIZES
from mla_jax.parity.cases import CLASSES, Case
from mla_jax.parity.theirs.clones import Clone, with_constants


@contextlib.contextmanager
def narrow(clone: Clone, case: Case) -> Iterator[None]:
    """Lets the classes of a clone build classifiers for the inputs of a case."""
    nn, basic, m3ae, cav = clone.torch.nn, clone.basic_model, clone.m3ae, clone.cav_mae
    Module: Any = nn.Module
    width, depth, heads = SIZES["tiny"]
    m3ae_class, cav_class = basic.M3AE, basic.CAVMAEFT
    forward = with_constants(m3ae_class.forward_representation, {"cuda:0": "cpu"})

    class Attention(Module):
        def __init__(self, dim: int, num_heads: int, qkv_bias: bool, **_: Any):
            super().__init__()
            self.heads = num_heads
            self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=qkv_bias), nn.Linear(dim, dim)

        def forward(self, x: Any) -> Any:
            q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            x = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.proj(x.transpose(1, 2).flatten(2))

    class Mlp(Module):
        def __init__(self, in_features: int, hidden_features: int, act_layer: Any, **_: Any):
            super().__init__()
            self.fc1, self.act = nn.Linear(in_features, hidden_features), act_layer()
            self.fc2 = nn.Linear(hidden_features, in_features)

        def forward(self, x: Any) -> Any:
            return self.fc2(self.act(self.fc1(x)))

    def narrow_m3ae(text_vocab_size: int, config_updates: Any) -> Any:
        del text_vocab_size, config_updates
        size = {"model_type": None, "emb_dim": width, "depth": depth, "num_heads": heads}
        model = m3ae_class(case.vocabulary, ConfigDict(size))
        model.forward_representation = functools.partial(forward, model)
        return model

    def narrow_cav(classes: int) -> Any:
        length = case.inputs["audio"][0]
        model = cav_class(
            classes, audio_length=length, embed_dim=width, modality_specific_depth=depth - 1,
            num_heads=heads,
        )  # fmt: skip
        model.blocks_u = model.blocks_u[:1]  # it makes 12 less those of a modality
        return model

    def fusion(kind: Any) -> Any:
        return lambda input_dim, output_dim: kind(width * (input_dim // 768), CLASSES)

    fusions = {n: fusion(getattr(basic, n)) for n in ("ConcatFusion", "ConcatFusion3")}
    with (
        mock.patch.multiple(basic, M3AE=narrow_m3ae, CAVMAEFT=narrow_cav, **fusions),
        mock.patch.multiple(cav, Attention=Attention, Mlp=Mlp, to_2tuple=lambda side: (side, side)),
        mock.patch.object(m3ae, "DropPath", lambda rate: nn.Identity()),
        mock.patch.object(clone.torch, "load", lambda path, map_location: {}),
    ):
        yield
