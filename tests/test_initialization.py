"""The laws from which weights are drawn, as the published code has them."""

import math

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mla_jax import methods
from mla_jax.config import fields
from mla_jax.functional.heads import INITIALIZATIONS
from mla_jax.program import build_program
from tests.conftest import build_config, build_dataset

D, HIDDEN = 512, 256
WIDE = {"name": "mlp", "hidden": HIDDEN}


def start(name: str, **options):
    modalities = ("a",) if name == "unimodal" else ("a", "b")
    dataset = build_dataset(modalities)
    config = build_config(modalities, name, encoder=WIDE, feature_dim=D, **options)
    program = build_program(fields.resolve(config), dataset, jax.devices()[:1])
    return program.method.init(jax.random.key(0), dataset.splits["train"].fetch(np.arange(1)))


def layers(state):
    """Kernels and biases of all linear layers on features, by the name of the head, but for those
    that are solved and not trained."""
    flat = flatten_dict(state.params["head"])
    return [(value, flat[(*path[:-1], "bias")]) for path, value in flat.items()
            if path[-1] == "kernel" and path[0] != "svm"]  # fmt: skip


@pytest.mark.parametrize("law", INITIALIZATIONS)
@pytest.mark.parametrize("name", methods.REGISTRY)
def test_heads_start_from_the_law_of_the_configuration(name, law):
    """Xavier normal with zero bias, or PyTorch's uniform of both."""
    own = {"method.heads": law} if name == "dimml" else {}  # for all heads but the fused one
    found = layers(start(name, head_init=law, **own))
    assert found or name == "cca", "CCA has nothing to train"
    for kernel, bias in found:
        if law == "torch":
            bound = 1 / math.sqrt(len(kernel))
            assert 0.99 * bound < np.abs(kernel).max() <= bound
            assert np.std(kernel) == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert bias.any() and np.abs(bias).max() <= bound
        else:
            std = math.sqrt(2 / sum(kernel.shape))
            assert np.std(kernel) == pytest.approx(std, rel=0.08), "of 1536 values or more"
            largest = np.abs(kernel).max() / std
            assert largest > 2, "of a uniform law it would be 1.7"
            assert (largest < 2.28) == (law == "xavier")
            assert not bias.any()


CHOSEN = [
    ("paper", "m3ae_text", "xavier"),
    ("released", "m3ae_text", "torch"),
    ("first_drop", "features", "torch"),
    ("released", "cavmae_audio", "torch"),
    ("released", "resnet18", "xavier_untruncated"),  # the classifier that weight_init is applied to
    ("released", "mlp", "xavier_untruncated"),
]


@pytest.mark.parametrize(("fidelity", "encoder", "expected"), CHOSEN)
def test_which_law_is_the_published_one(fidelity, encoder, expected):
    config = build_config(method="mla", fidelity=fidelity, encoder={"name": encoder})
    assert fields.resolve(config).head_init == expected


def test_released_dimml_draws_the_scales_of_batch_normalisations():
    paper, released = start("dimml"), start("dimml", fidelity="released")
    for m in ("a", "b"):
        scale = released.params["encoder"][m]["BatchNorm_0"]["scale"]
        assert np.std(scale) == pytest.approx(0.02, rel=0.15) and abs(np.mean(scale) - 1) < 0.005
        assert (paper.params["encoder"][m]["BatchNorm_0"]["scale"] == 1).all()
        for layer in ("Dense_0", "Dense_1"):
            a, b = (s.params["encoder"][m][layer] for s in (paper, released))
            jax.tree.map(np.testing.assert_array_equal, a, b)
    a, b = (released.params["encoder"][m]["BatchNorm_0"]["scale"] for m in ("a", "b"))
    assert not np.array_equal(a, b)
