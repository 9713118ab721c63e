"""A training batch on several devices: whose statistics, which collectives, in which type."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh

from mla_jax.config import fields
from mla_jax.datasets import ArraySplit
from mla_jax.encoders import Encoders, create_encoders
from mla_jax.encoders.spread import Spread
from mla_jax.errors import UserError
from mla_jax.functional.losses import cross_entropy
from mla_jax.functional.optimizers import StepInfo
from mla_jax.parity import formula
from mla_jax.program import build_program
from tests import data_parallel_reference as reference
from tests.conftest import build_config, build_dataset, fresh_state

CLOCK = StepInfo(0, 0, 6)
HASTE = {"xla_backend_optimization_level": 0}  # of machine code; the HLO stays as it is
MLP = {"name": "mlp", "hidden": 8}


def spread(devices, parts=0, in_float32=False):
    return Spread(Mesh(jax.devices()[:devices], ("data",)), parts, in_float32)


def encoders(chosen, name="mlp", feature_dim=8, dtype=jnp.float32, **options):
    return create_encoders({"m": {"name": name, **options}}, ("m",), feature_dim, dtype, chosen)


def step(chosen):
    """Features, loss, gradients and statistics of ``reference.batch`` under the formula's weights,
    named as in the fixture."""
    inputs, labels = reference.batch()
    *widths, feature_dim = reference.WIDTHS
    built = encoders(chosen, "conv2d", feature_dim, widths=tuple(widths))
    shapes = jax.eval_shape(built.modules["m"].init, jax.random.key(0), inputs)
    variables = formula.variables(shapes, reference.SEED)

    @jax.jit
    def compute(params, inputs):
        def objective(params):
            z, stats = built.apply("m", params, variables["batch_stats"], inputs, True)
            return cross_entropy(z @ reference.head(), labels).mean(), (z, stats)

        return jax.value_and_grad(objective, has_aux=True)(params)

    (loss, (z, stats)), gradients = compute(variables["params"], inputs)
    trees = {"gradient": {"params": gradients}, "batch_stats": stats}
    return {"features": z, "loss": loss, **traverse_util.flatten_dict(trees, sep="/")}


def differences(found, expected):
    """By quantity, the largest difference relative to its largest value."""
    assert found.keys() == expected.keys()
    return {
        name: np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()
        for name in expected
    }


@functools.cache
def stored():
    with np.load(reference.FIXTURE) as file:
        return dict(file)


@pytest.mark.parametrize("devices", [1, 2])
def test_statistics_of_each_device_are_those_of_data_parallel(devices, optimized):
    """On two devices, and on one that plays both."""
    found = differences(step(spread(devices, parts=2)), stored())
    assert max(found.values()) < 1e-5, found


def test_statistics_of_the_whole_batch_are_others(optimized):
    whole = step(spread(1))
    assert differences(whole, stored())["features"] > 0.05
    found = differences(step(spread(2)), whole)
    assert max(found.values()) < 1e-5, found


@pytest.mark.parametrize("devices", [1, 2])
def test_each_part_counts_its_own_examples(devices):
    """Under a mask: as if each part were a batch of its own, and the first one's are kept."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 6)).astype(np.float32)
    present = rng.random(16) < 0.6
    present[8:12] = False  # the third part has nobody
    alone, apart = encoders(spread(1)), encoders(spread(devices, parts=4))
    params, stats = (tree["m"] for tree in alone.init(jax.random.key(0), {"m": x}))
    features, new = jax.jit(apart.apply, static_argnums=(0, 4))(
        "m", params, stats, x, True, present
    )
    rows = [slice(i, i + 4) for i in range(0, 16, 4)]
    parts = [alone.apply("m", params, stats, x[r], True, present[r]) for r in rows]
    np.testing.assert_allclose(features, np.concatenate([z for z, _ in parts]), atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new, parts[0][1])


def test_a_large_mean_does_not_hurt_the_variance_of_all_devices():
    x = (100 + np.random.default_rng(0).normal(size=(16, 6))).astype(np.float32)
    built = encoders(spread(8))
    params, stats = (tree["m"] for tree in built.init(jax.random.key(0), {"m": x}))
    z, new = built.apply("m", params, stats, x, True)
    hidden = x.astype(np.float64) @ params["Dense_0"]["kernel"]
    expected = 0.9 + 0.1 * hidden.var(0, ddof=1)
    np.testing.assert_allclose(new["BatchNorm_0"]["var"], expected, rtol=1e-4)
    assert np.isfinite(z).all()


# ---- Programs -----------------------------------------------------------------------------------


def prepared(devices, encoder=None, missing=0.0, method="mla", **options):
    """A program on so many devices, its state and a batch; pictures unless ``encoder`` is given."""
    dataset = build_dataset(missing=missing)
    if encoder is None:
        rng, split = np.random.default_rng(0), dataset.splits["train"]
        pictures = rng.normal(size=(split.examples, 8, 8, 1)).astype(np.float32)
        split = ArraySplit({"a": pictures, "b": -pictures}, split.label, split.present)
        dataset = dataset._replace(splits={**dataset.splits, "train": split})
        encoder = {"name": "conv2d", "widths": (4,)}
    config = fields.resolve(build_config(method=method, encoder=encoder, **options), devices)
    program = build_program(config, dataset, jax.devices()[:devices])
    state = fresh_state(program, dataset)
    batch = program.placement.shard(dataset.splits["train"].fetch(np.arange(16)))
    return program.dispatches[program.method.stages[0].name], state, batch


COLLECTIVE = re.compile(r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\(")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Two normalisations, one all-gather and one all-reduce each; gradients; who is present;
        # the metrics; the accuracy.
        ({}, {"all-gather": 2, "all-reduce": 5}),
        # The gradients and the statistics of the first device; the loss; who is present.
        ({"batch_norm": "device"}, {"all-reduce": 3}),
    ],
)
def test_collectives_of_a_phase(settings, expected):
    dispatch, state, batch = prepared(8, **settings)
    text = dispatch.lower(0, state, batch, CLOCK).compile(HASTE).as_text()
    found = COLLECTIVE.findall(text)
    assert {kind: found.count(kind) for kind in found} == expected


def test_on_one_device_its_statistics_are_those_of_the_batch():
    """The programs are the same, text by text."""

    def program(**settings):
        dispatch, state, batch = prepared(1, MLP, **settings)
        return dispatch.lower(1, state, batch, CLOCK).as_text()

    text = program()
    assert program(batch_norm="device") == text
    assert program(gradient_sum_dtype="float32") == text
    assert program(batch_norm="device", batch_norm_devices=2) != text


@pytest.mark.parametrize("method", ["mla", "dcca"])
def test_a_run_of_four_devices_on_two_and_on_one(method):
    """An encoder after the other, and one encoder for both modalities."""
    settings = {"batch_norm": "device", "batch_norm_devices": 4, "missing": 0.2, "method": method}
    found = []
    for devices in (2, 1):
        dispatch, state, batch = prepared(devices, MLP, **settings)
        state, metrics = dispatch(0, state, batch, CLOCK)
        found.append(jax.device_get((state.variables, metrics["loss"])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *found)


# ---- The type of the sum ------------------------------------------------------------------------

REDUCED = re.compile(r"stablehlo.all_reduce.*?\) -> tensor<([^>]*)>", re.DOTALL)
"""Shape and type of what is summed, in a program before XLA changes it."""


@pytest.mark.parametrize("encoder", [MLP, {"name": "features", "projection": "linear"}])
def test_gradients_are_summed_in_float32(encoder):
    """The kernels' gradients: rounded to bfloat16 before the sum and after it, or not after it."""

    def kernels(devices, **settings):
        settings = {"compute_dtype": "bfloat16", "optimizer.weight_decay": 0.0, **settings}
        dispatch, state, batch = prepared(devices, encoder, **settings)
        text = dispatch.lower(0, state, batch, CLOCK).as_text()
        before = jax.device_get(state.params["encoder"]["a"])
        momentum = jax.device_get(dispatch(0, state, batch, CLOCK)[0].opt_state["encoder"]["a"])
        found = [x for x in jax.tree.leaves(momentum) if x.ndim == 2]
        assert len(found) == sum(x.ndim == 2 for x in jax.tree.leaves(before))
        rounded = [np.array_equal(x, x.astype(jnp.bfloat16).astype(np.float32)) for x in found]
        return found, rounded, REDUCED.findall(text)

    narrow, rounded, _ = kernels(8)
    assert all(rounded)
    wide, rounded, reduced = kernels(8, gradient_sum_dtype="float32")
    assert not any(rounded)
    for kernel in wide:
        assert "x".join(map(str, kernel.shape)) + "xf32" in reduced
    assert not any(found.endswith("bf16") for found in reduced)
    for a, b in zip(wide, narrow, strict=True):
        np.testing.assert_allclose(a, b, atol=0.01 * np.abs(b).max())


def test_without_the_switch_they_are_summed_as_computed():
    dispatch, state, batch = prepared(8, MLP, compute_dtype="bfloat16")
    reduced = REDUCED.findall(dispatch.lower(0, state, batch, CLOCK).as_text())
    assert {"6x8xbf16", "8x8xbf16"} <= set(reduced)


# ---- What does not suit -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_norm": "devise"}, "unknown batch_norm 'devise': did you mean 'device'"),
        ({"gradient_sum_dtype": "float16"}, "unknown gradient_sum_dtype 'float16'"),
        ({"batch_norm_devices": 2}, "batch_norm_devices=2 .* set batch_norm=device as well"),
        (
            {"batch_norm": "device", "batch_norm_devices": 3},
            "batch_size=16 does not divide among batch_norm_devices=3",
        ),
    ],
)
def test_settings_that_do_not_suit(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        fields.resolve(build_config(**settings), 8)


def test_the_number_of_devices_is_part_of_a_run():
    config = build_config(batch_norm="device")
    assert fields.resolve(config, 4).batch_norm_devices == 4
    assert fields.resolve(config).batch_norm_devices == jax.device_count()
    assert fields.resolve(fields.resolve(config, 4), 2).batch_norm_devices == 4
    four, two = (fields.to_json(fields.resolve(config, n)) for n in (4, 2))
    assert fields.differing_fields(four, two) == ["batch_norm_devices: 4 -> 2"]


def test_a_run_that_is_older_than_the_switches_has_those_of_its_time():
    saved = fields.to_json(fields.resolve(build_config()))
    for name in ("batch_norm", "batch_norm_devices", "gradient_sum_dtype"):
        del saved[name]
    completed = fields.completed(saved)
    assert (completed["batch_norm"], completed["gradient_sum_dtype"]) == ("global", "compute")
    assert completed["batch_norm_devices"] == 0


def test_parts_that_do_not_divide_among_the_devices():
    dispatch, state, batch = prepared(4, MLP, batch_norm="device", batch_norm_devices=2)
    with pytest.raises(UserError, match="batch_norm_devices=2 does not divide among 4 devices"):
        dispatch(0, state, batch, CLOCK)
    plain = {"name": "features", "projection": "linear"}  # nothing to normalise
    dispatch, state, batch = prepared(4, plain, batch_norm="device", batch_norm_devices=2)
    dispatch(0, state, batch, CLOCK)


class Own(nn.Module):
    """An encoder of somebody who knows nothing of devices."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)


def test_an_encoder_that_takes_no_axis_name():
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)

    def run(chosen):
        own = Encoders({"m": Own()}, 4, spread=chosen)
        params, stats = (tree["m"] for tree in own.init(jax.random.key(0), {"m": x}))
        return jax.jit(lambda x: own.apply("m", params, stats, x, True))(x)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *map(run, (
        spread(8), spread(1),
    )))  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *map(run, (
        spread(8, parts=8), spread(1, parts=8),
    )))  # fmt: skip
    with pytest.raises(UserError, match="takes an axis_name"):
        run(spread(8, in_float32=True))
