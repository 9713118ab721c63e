"""ResNet-18: parameter counts, geometry, initialisation, frames, bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mla_jax.encoders import REGISTRY
from mla_jax.encoders.resnet import ResNet18, avoiding_small_maps, convolution, max_pool
from mla_jax.errors import UserError
from mla_jax.parity import formula

PARAMETER_COUNTS = {1: 11_170_240, 2: 11_173_376, 3: 11_176_512}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def random_images(*shape):
    return jax.random.normal(jax.random.key(7), shape)


@pytest.mark.parametrize("channels", PARAMETER_COUNTS)
def test_golden_parameter_counts(channels):
    image = jnp.zeros((1, 64, 64, channels))
    shapes = jax.eval_shape(REGISTRY["resnet18"]().init, jax.random.key(0), image)
    assert count(shapes["params"]) == PARAMETER_COUNTS[channels]
    assert count(shapes["batch_stats"]) == 2 * 4800


@pytest.mark.parametrize(
    ("size", "expected"), [((224, 224), (7, 7)), ((1024, 128), (32, 4)), ((129, 626), (5, 20))]
)
def test_last_stage_geometry(size, expected):
    def last_map(image):
        _, kept = ResNet18().init_with_output(
            jax.random.key(0), image, capture_intermediates=True, mutable=True
        )
        return kept["intermediates"]["layer4_1"]["__call__"][0]

    assert jax.eval_shape(last_map, jnp.zeros((1, *size, 1))).shape == (1, *expected, 512)


def network(images, **settings):
    """A narrow network, its weights by formula (initialising would compile for seconds)."""
    module = ResNet18(feature_dim=16, **settings)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    return module, formula.variables(shapes, seed=1)


def test_frames_share_the_network_and_are_averaged():
    clip = random_images(2, 3, 32, 32, 3)
    module, variables = network(clip)
    apply = jax.jit(module.apply)
    together = apply(variables, clip)
    apart = jnp.stack([apply(variables, clip[:, t]) for t in range(3)]).mean(0)
    assert together.shape == (2, 16)
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)


def test_kernels_start_from_an_untruncated_kaiming_normal_over_the_fan_out():
    layer = convolution(64, 3, 1, jnp.float32, "layer")
    kernel = layer.init(jax.random.key(1), jnp.zeros((1, 4, 4, 32)))["params"]["kernel"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert jnp.abs(kernel).max() > 3 * kernel.std()


def test_bfloat16_computes_with_float32_parameters_and_statistics():
    images = random_images(2, 32, 32, 3)
    module, variables = network(images, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}

    def run(variables):
        return module.apply(variables, images, train=True, mutable=True, capture_intermediates=True)

    features, kept = jax.eval_shape(run, variables)
    assert features.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(kept["batch_stats"])} == {jnp.dtype("float32")}
    stem = kept["intermediates"]["conv1"]["__call__"][0]
    assert stem.dtype == jnp.bfloat16


@pytest.mark.parametrize("unbiased", [True, False])
def test_running_variance(unbiased):
    images = random_images(2, 16, 16, 1)
    module, variables = network(images, unbiased_variance=unbiased)

    @jax.jit
    def run(variables):
        return module.apply(variables, images, train=True, mutable=True, capture_intermediates=True)

    _, kept = run(variables)
    stem = np.asarray(kept["intermediates"]["conv1"]["__call__"][0])
    expected = 0.9 * variables["batch_stats"]["bn1"]["var"]
    expected += 0.1 * stem.var((0, 1, 2), ddof=int(unbiased))
    np.testing.assert_allclose(kept["batch_stats"]["bn1"]["var"], expected, rtol=1e-6)


def test_unusable_inputs_are_refused():
    with pytest.raises(UserError, match="divisible by 8"):
        ResNet18(feature_dim=12).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(UserError, match="shape"):
        ResNet18(feature_dim=8).init(jax.random.key(0), jnp.zeros((1, 8, 8)))


def reduce_window(x):
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 7, 9, 2), (2, 1, 6, 2), (1, 5, 1, 1)])
def test_pooling_is_that_of_a_reduce_window(shape, dtype):
    """Values, and where the gradient goes: many zeros are tied, as after a relu."""
    x = nn.relu(jnp.round(random_images(*shape) * 2)).astype(dtype)

    def pooled(x, pool):
        found, pullback = jax.vjp(pool, x)
        return found, pullback(jnp.ones_like(found))[0]  # sums of ones are exact in any order

    both = jax.jit(lambda x: [pooled(x, pool) for pool in (reduce_window, max_pool)])
    jax.tree.map(np.testing.assert_array_equal, *both(x))


@pytest.mark.parametrize("place", [(0, 0), (2, 3), (7, 7), (4, 7)])
def test_pooling_keeps_nan(place):
    x = random_images(1, 8, 8, 1).at[0, *place, 0].set(jnp.nan)
    np.testing.assert_array_equal(max_pool(x), reduce_window(x))
    assert jnp.isnan(max_pool(x)).any()


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "swapped"),
    [
        ((2, 2), 3, 1, True),
        ((1, 1), 3, 1, True),
        ((2, 4), 3, 1, True),
        ((4, 4), 3, 2, True),  # the map of its result is small
        ((5, 3), 3, 2, True),
        ((4, 4), 7, 2, True),
        ((3, 3), 3, 1, False),
        ((2, 8), 3, 1, False),
        ((1, 1), 1, 1, False),
    ],
)
def test_small_maps_on_a_cpu(size, kernel, stride, swapped):
    """The same values and gradients, and no convolution whose window is the map itself."""
    x, pad = random_images(3, *size, 4), kernel // 2
    weights = jax.random.normal(jax.random.key(1), (kernel, kernel, 4, 5))

    def compiled(convolve):
        def both(x, weights):
            y, pullback = jax.vjp(
                lambda x, w: convolve(
                    x, w, (stride, stride), [(pad, pad)] * 2,
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                ),
                x, weights,
            )  # fmt: skip
            return y, pullback(jnp.cos(y))

        # Without the gradient in the weights, whose window is always a map.
        forward = jax.jit(lambda x, w: both(x, w)[1][0]).lower(x, weights).compile().as_text()
        return jax.jit(both)(x, weights), "rhs_reversal" in forward

    plain, swaps = compiled(jax.lax.conv_general_dilated)
    found, swaps_still = compiled(avoiding_small_maps)
    assert (swaps, swaps_still) == (swapped, False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-5), found, plain)


def test_only_cpus_avoid_small_maps():
    small = jnp.zeros((2, 32, 32, 3))
    barriers = []
    for platform in ("cpu", "tpu"):
        module = ResNet18(feature_dim=16, compiled_for=platform)
        text = jax.make_jaxpr(lambda m=module: m.init(jax.random.key(0), small))()
        barriers.append("optimization_barrier" in str(text))
    assert barriers == [True, False]
