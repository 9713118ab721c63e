"""Which encoders are compiled with other options than XLA's own."""

import pytest

from mla_jax.backend import compiling
from mla_jax.encoders import create_encoders

WIDE, SMALL = {"name": "resnet18"}, {"name": "mlp"}


@pytest.fixture
def encoders():
    compiling._is_known.cache_clear()
    yield lambda *kinds: create_encoders(
        dict(zip("ab", kinds, strict=True)), ("a", "b"), 16, "float32"
    )
    compiling._is_known.cache_clear()


def test_a_resnet_beside_another_encoder(encoders):
    known = compiling._is_known()
    expected = compiling.NO_YNNPACK_CONVOLUTIONS if known else None
    assert compiling.options_for(encoders(SMALL, WIDE), "cpu") == expected
    assert compiling.options_for(encoders(SMALL, SMALL), "cpu") is None


def test_an_option_that_xla_does_not_know(encoders, monkeypatch):
    monkeypatch.setattr(compiling, "NO_YNNPACK_CONVOLUTIONS", {"xla_cpu_no_such_thing": "1"})
    assert compiling.options_for(encoders(WIDE, WIDE), "cpu") is None


def test_an_accelerator(encoders):
    assert compiling.options_for(encoders(WIDE, WIDE), "tpu") is None
