"""Every number of every method and encoder: what cannot be one is refused by name."""

import collections.abc
import inspect
import math
import typing

import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax import methods
from mla_jax.config import fields
from mla_jax.encoders import REGISTRY, create_encoders
from mla_jax.errors import UserError
from mla_jax.functional.optimizers import create_optimizer
from mla_jax.methods.base import Task

IMPOSSIBLE = (-1, math.nan, math.inf, -math.inf)
MAY_BE_ZERO = {"ranking_weight", "duc_weight", "shared_weight", "norm_scale_std", "rate"}
MAY_BE_ZERO |= {"alpha", "projection.alpha", "first_epoch", "last_epoch", "head_rate"}
MAY_BE_ZERO |= {"split_epoch", "fusion_epochs", "teacher_epochs"}  # 0: the published share
MAY_BE_ZERO |= {"reconstruction_weight", "imagination_weight", "cycle_weight"}
MAY_BE_ZERO |= {"invariance_weight", "discrepancy_weight", "dropout", "teacher_dropout"}
MAY_BE_ZERO |= {"projections"}  # 0: as many as published, if widths allow
MAY_BE_ZERO |= {"latent_dim", "width", "missing_epochs"}  # 0: that of the run
MAY_BE_ZERO |= {"class_weight", "guide_weight", "decoder_weight", "tag_weight", "l2_weight"}


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def switches_of(module):
    """The switches that are numbers, and those that are several."""
    flat = fields.flatten(module.FIDELITY["paper"])
    return {k: v for k, v in flat.items() if is_number(v) or isinstance(v, tuple)}


SWITCHES = [(name, s) for name, module in methods.REGISTRY.items() for s in switches_of(module)]
NUMBERS = (int, float)


def fields_of(encoder):
    """``{field: kind}`` of those that take numbers."""
    found = {}
    for field, parameter in inspect.signature(encoder).parameters.items():
        kinds = typing.get_args(parameter.annotation) or (parameter.annotation,)
        kind = next((k for k in kinds if k in NUMBERS), None)
        several = typing.get_origin(parameter.annotation) is collections.abc.Sequence
        if kind and field != "feature_dim":
            found[field] = (kind, several)
    return found


FIELDS = [(name, f) for name, encoder in REGISTRY.items() for f in fields_of(encoder)]


def build(name, **switches):
    """The method, with two encoders; as a run builds it."""
    block = fields._unflatten({"name": name, "fidelity": "paper", **switches})
    config = fields.base_config()
    resolved = fields.ConfigDict(fields.resolve_switches(block))
    modalities = ("a",) if methods.trains_one_modality(name) else ("a", "b")
    encoders = create_encoders({m: {"name": "mlp"} for m in "ab"}, modalities, 4, jnp.float32)
    optimizer = create_optimizer(config.optimizer, 3)
    return methods.create_method(resolved, encoders, optimizer, Task(2, 3, 16))


def encoder(name, **options):
    return create_encoders({"a": {"name": name, **options}}, ("a",), 768, jnp.float32)


@pytest.mark.parametrize(("name", "switch"), SWITCHES)
def test_numbers_that_no_switch_can_be(name, switch):
    sound = switches_of(methods.get(name))[switch]
    several = isinstance(sound, tuple)
    on = {"fusion": "fixed"} if switch == "fusion_weights" else {}
    too_large = (10**30,) if isinstance(sound, int) else ()
    for value in (*IMPOSSIBLE, *(() if switch in MAY_BE_ZERO else (0,)), *too_large):
        with pytest.raises(UserError, match=rf"method\.{switch}|method\.temperature"):
            build(name, **on, **{switch: (value, 0) if several else value})


def test_the_table_of_switches_holds_those_of_every_method():
    assert len(SWITCHES) >= 17
    for name, module in methods.REGISTRY.items():
        numbers = {s for s, value in switches_of(module).items() if is_number(value)}
        assert numbers == set(getattr(module, "LIMITS", {})), name


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_numbers_that_no_field_of_an_encoder_can_be(name, field):
    kind, several = fields_of(REGISTRY[name])[field]
    wrong = (*IMPOSSIBLE, 0, True, "many", (8, 8), *((2.5, 10**30, np.nan) if kind is int else ()))
    for value in (*((v,) for v in wrong), (), 3) if several else wrong:
        with pytest.raises(UserError, match=rf"encoders\.a\.{field}="):
            encoder(name, **{field: value})


def test_sound_fields_of_encoders():
    assert len(FIELDS) >= 12
    for name, field in FIELDS:
        kind, several = fields_of(REGISTRY[name])[field]
        value = 1e-3 if kind is float else 8
        module = encoder(name, **{field: (value,) if several else value}).modules["a"]
        assert getattr(module, field) == ((value,) if several else value)
    assert encoder("m3ae_text", epsilon=None, text_length=None).modules["a"].epsilon is None
    assert encoder("m3ae_text", differs_from_weights="epsilon")
