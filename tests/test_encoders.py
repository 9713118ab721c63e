"""Every encoder's exact size, batch normalisation against numpy, and precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mla_jax.encoders import REGISTRY, create_encoders
from mla_jax.encoders.norm import BatchNorm
from mla_jax.encoders.small import halve
from mla_jax.errors import UserError

D = 64


def image(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def ids(*shape):
    return np.random.default_rng(0).integers(1, 1024, shape).astype(np.int32)


# name: (fields, an input of two examples, parameters at D = 64).  Add a row with each encoder.
ROWS = {
    "cavmae_audio": ({"size": "tiny"}, image(2, 64, 32), 117_120),
    "cavmae_visual": ({"size": "tiny"}, image(2, 32, 32, 3), 149_632),
    "conv1d": ({}, image(2, 32, 13), 14_064),
    "conv2d": ({}, image(2, 14, 14, 1), 23_408),
    "features": ({"projection": "linear"}, image(2, 6), 448),
    "m3ae_image": ({"size": "tiny"}, image(2, 32, 32, 3), 149_440),
    "m3ae_text": ({"size": "tiny"}, ids(2, 24), 2_053_632),
    "mlp": ({}, image(2, 6), 2_400),
    "ngram_bag": ({}, ids(2, 24), 65_536),
    "resnet18": ({}, image(2, 32, 32, 3), 176_712),
}


# (encoder, size): (its width, an input, parameters).  Base: of the published checkpoints, where an
# M3AE has 109,089,792 in all: both rows, less what they share.
FULL_SIZES = {
    ("cavmae_audio", "base"): (768, np.zeros((1, 1024, 128), np.float32), 85_647_360),
    ("cavmae_visual", "base"): (768, np.zeros((1, 224, 224, 3), np.uint8), 85_797_888),
    ("m3ae_image", "small"): (384, np.zeros((1, 256, 256, 3), np.uint8), 21_590_400),
    ("m3ae_image", "base"): (768, np.zeros((1, 256, 256, 3), np.uint8), 85_648_128),
    ("m3ae_image", "large"): (1024, np.zeros((1, 256, 256, 3), np.uint8), 303_100_928),
    ("m3ae_text", "small"): (384, ids(1, 64), 33_015_552),
    ("m3ae_text", "base"): (768, ids(1, 64), 108_498_432),
    ("m3ae_text", "large"): (1024, ids(1, 64), 333_568_000),
}
SHARED = 12 * 7_087_872 + 2 * 768 + 768  # blocks, last norm, class token of base


def build(name, dtype=jnp.float32, feature_dim=D, **fields):
    return create_encoders({"m": {"name": name, **fields}}, ("m",), feature_dim, dtype)


def test_every_encoder_has_a_row():
    assert set(ROWS) == set(REGISTRY), "add the encoder's row to ROWS"


@pytest.mark.parametrize("name", ROWS)
def test_parameter_count(name):
    fields, example, count = ROWS[name]
    init = lambda x: build(name, **fields).init(jax.random.key(0), {"m": x})  # noqa: E731
    params, _ = jax.eval_shape(init, example)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(("name", "size"), FULL_SIZES)
def test_parameter_count_at_full_size(name, size):
    width, example, count = FULL_SIZES[name, size]
    encoders = build(name, feature_dim=width, size=size)
    params, _ = jax.eval_shape(lambda x: encoders.init(jax.random.key(0), {"m": x}), example)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_the_base_counts_add_up_to_the_published_one():
    text, image = (FULL_SIZES[f"m3ae_{part}", "base"][2] for part in ("text", "image"))
    assert text + image - SHARED == 109_089_792


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ROWS)
def test_parameters_statistics_and_features_are_float32(name, dtype):
    fields, example, _ = ROWS[name]
    encoders = build(name, jnp.dtype(dtype), **fields)

    def both(x):
        params, stats = encoders.init(jax.random.key(0), {"m": x})
        trained, new = encoders.apply("m", params["m"], stats["m"], x, True)
        evaluated, same = encoders.apply("m", params["m"], stats["m"], x, False)
        return (params, stats, new, same), (trained, evaluated)

    kept, features = jax.eval_shape(both, example)
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype("float32")}
    assert all(f.shape == (2, D) and f.dtype == jnp.float32 for f in features)
    inner = jax.make_jaxpr(both)(example).pretty_print(use_color=False)
    assert ("bf16" in inner) == (dtype == "bfloat16"), "compute does not follow the dtype"


def test_bfloat16_is_close_to_float32():
    fields, example, _ = ROWS["mlp"]
    results = []
    for dtype in (jnp.float32, jnp.bfloat16):
        encoders = build("mlp", dtype, feature_dim=8, **fields)

        @jax.jit
        def features(x, encoders=encoders):
            params, stats = encoders.init(jax.random.key(0), {"m": x})
            return encoders.apply("m", params["m"], stats["m"], x, False)[0]

        results.append(np.asarray(features(example)))
    # bfloat16 keeps 8 bits: three layers round to about 1 %; equality would mean it was not used.
    np.testing.assert_allclose(*results, rtol=0.1, atol=0.05)
    assert not np.array_equal(*results)


@pytest.mark.parametrize("unbiased", [True, False])
def test_batch_norm_against_numpy(unbiased):
    rng = np.random.default_rng(0)
    x = (100 + rng.normal(size=(5, 3, 4))).astype(np.float32)  # a mean that hurts one-pass variance
    old_mean, old_var = rng.normal(size=4), rng.random(4) + 0.5
    scale, bias = rng.normal(size=4), rng.normal(size=4)
    variables = {
        "params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)},
        "batch_stats": {"mean": jnp.asarray(old_mean), "var": jnp.asarray(old_var)},
    }
    module = BatchNorm(unbiased=unbiased)
    y, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = x.reshape(-1, 4).astype(np.float64)
    mean, var = flat.mean(0), flat.var(0)  # normalised by the biased variance
    expected = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(y, expected, atol=1e-4)  # float32 keeps 100 + noise to 8e-6
    kept = flat.var(0, ddof=1) if unbiased else var  # but the unbiased one is remembered
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.9 * old_mean + 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 * old_var + 0.1 * kept, rtol=1e-5)

    evaluated = module.apply(variables, x, train=False)
    expected = (x - old_mean) / np.sqrt(old_var + 1e-5) * scale + bias
    np.testing.assert_allclose(evaluated, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "conv2d", "resnet18"])
def test_absent_examples_take_no_part_in_batch_statistics(name):
    """Those of a masked batch are those of the smaller batch; clips mask all their frames."""
    fields, _, _ = ROWS[name]
    rng = np.random.default_rng(0)
    shape = {"mlp": (6, 5), "conv2d": (6, 8, 8, 2), "resnet18": (6, 2, 32, 32, 3)}[name]
    x = rng.normal(2, 3, shape).astype(np.float32)
    present = np.array([True, False, True, True, False, True])
    encoders = build(name, feature_dim=8, **fields)
    params, stats = jax.jit(encoders.init)(jax.random.key(0), {"m": x})

    def applied(encoders):
        return jax.jit(lambda x, p: encoders.apply("m", params["m"], stats["m"], x, True, p))

    apply = applied(encoders)
    zeros = np.where(present.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
    (masked, new), (kept, expected) = apply(zeros, present), apply(x[present], None)
    np.testing.assert_allclose(masked[present], kept, rtol=1e-4, atol=1e-5)
    # A running mean near 0 is what is left of sums of order 1.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-8), new, expected)
    counted, new = apply(zeros, np.zeros(6, bool))
    assert np.isfinite(counted).all()  # and not a product of square roots of epsilon
    jax.tree.map(np.testing.assert_array_equal, new, stats["m"])
    _, new = applied(encoders._replace(complete=True))(x, present)
    _, expected = apply(x, None)
    jax.tree.map(np.testing.assert_array_equal, new, expected)


def test_batch_norm_starts_as_the_identity_and_init_counts_no_batch():
    variables = BatchNorm().init(jax.random.key(0), image(4, 3), train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(3))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(3))


def test_ngram_bag_is_the_mean_over_what_is_not_padding():
    encoders = build("ngram_bag", feature_dim=4, vocabulary=10)
    batch = np.array([[3, 5, 0, 0], [7, 0, 0, 0], [0, 0, 0, 0]], np.int32)
    params, stats = encoders.init(jax.random.key(0), {"m": batch})
    table = np.asarray(jax.tree.leaves(params)[0])
    features, _ = encoders.apply("m", params["m"], stats["m"], batch, True)
    expected = [(table[3] + table[5]) / 2, table[7], np.zeros(4)]
    np.testing.assert_allclose(features, expected, atol=1e-6)


def test_precomputed_features_are_handed_on_or_averaged_over_time():
    x = image(2, 3, 8)
    encoders = build("features", jnp.bfloat16, feature_dim=8)
    params, stats = encoders.init(jax.random.key(0), {"m": x})
    assert params == {"m": {}}
    features, _ = encoders.apply("m", params["m"], stats["m"], x, True)
    np.testing.assert_allclose(features, x.mean(1), rtol=1e-6)
    features, _ = encoders.apply("m", params["m"], stats["m"], x[:, 0], False)
    np.testing.assert_array_equal(features, x[:, 0])


def test_precomputed_features_through_a_linear_layer():
    x, kernel, bias = image(2, 6), image(6, 4), image(4)
    params = {"projection": {"kernel": kernel, "bias": bias}}
    encoders = build("features", feature_dim=4, projection="linear")
    features, _ = encoders.apply("m", params, {}, x, True)
    np.testing.assert_allclose(features, x @ kernel + bias, rtol=1e-5, atol=1e-6)


def test_a_modality_starts_the_same_in_any_company():
    configs = {m: {"name": "mlp"} for m in ("a", "b", "c")}
    inputs = {m: image(2, 6) for m in configs}

    def start(*modalities):
        encoders = create_encoders(configs, modalities, 8, jnp.float32)
        return jax.jit(encoders.init)(jax.random.key(3), inputs)[0]

    alone, pair, reverse = start("a"), start("a", "b"), start("c", "b", "a")
    jax.tree.map(np.testing.assert_array_equal, alone["a"], pair["a"])
    jax.tree.map(np.testing.assert_array_equal, alone["a"], reverse["a"])
    jax.tree.map(np.testing.assert_array_equal, pair["b"], reverse["b"])
    kernels = [np.asarray(reverse[m]["Dense_0"]["kernel"]) for m in "abc"]
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[2])


@pytest.mark.parametrize(
    ("configs", "modalities", "words"),
    [
        ({"a": {"name": "mlpp"}}, ("a",), r"encoders\.a\.name 'mlpp'.*'mlp'"),
        ({"a": {"name": "mlp", "hiden": 3}}, ("a",), "field of encoder 'mlp' 'hiden'.*'hidden'"),
        ({"image": {"name": "mlp"}}, ("imag",), "'imag'.*'image'"),
        ({"a": {"name": "mlp"}}, (), "at least one modality"),
    ],
)
def test_what_cannot_be_built(configs, modalities, words):
    with pytest.raises(UserError, match=words):
        create_encoders(configs, modalities, 8, jnp.float32)


def test_the_gradient_through_halve_does_not_depend_on_the_compiler():
    """``max`` looks for values that equal the maximum; this program computes them twice, and rounds
    differently: its gradient was NaN, and relu then made the encoder's features 0."""
    encoder = REGISTRY["conv2d"](feature_dim=64, widths=(8, 16))
    x = jax.random.normal(jax.random.key(1), (64, 14, 14, 1))
    variables = encoder.init(jax.random.key(0), x, True)

    def objective(params):
        features, _ = encoder.apply(
            {**variables, "params": params}, x, True, mutable=["batch_stats"]
        )
        return (features**2).mean()

    compiled = jax.jit(jax.grad(objective))(variables["params"])
    step_by_step = jax.grad(objective)(variables["params"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), compiled, step_by_step
    )


@pytest.mark.parametrize("shape", [(2, 7, 3), (2, 6, 5, 3)])
def test_halve_is_max_pooling(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    window = (2,) * (len(shape) - 2)
    pooled = nn.max_pool(x, window, window)
    np.testing.assert_array_equal(halve(x), pooled)
    ties = jnp.ones(shape)
    np.testing.assert_array_equal(halve(ties), jnp.ones(pooled.shape))
    gradient = jax.grad(lambda x: halve(x).sum())(ties)
    assert set(np.unique(gradient)) <= {0, 0.5 ** len(window)}, "equal neighbours share it"
