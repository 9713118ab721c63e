"""The networks and sizes of AE, CRA, MMIN and IF-MMIN, as their specification has them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax import methods
from mla_jax.config import fields
from mla_jax.encoders import Encoders
from mla_jax.encoders.small import Mlp
from mla_jax.errors import UserError
from mla_jax.functional import autoencoders, heads, losses
from mla_jax.functional.optimizers import StepInfo, create_optimizer
from mla_jax.methods import Task
from mla_jax.methods.missing import targets
from mla_jax.methods.missing.networks import example_dropout

RNG = np.random.default_rng(0)


def size(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def numbers(tree):
    """The same parameters, none of them 0, in float64."""
    return jax.tree.map(lambda x: RNG.normal(size=x.shape) / np.sqrt(len(x)), tree)


# ---- Networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "blocks", "count"), [((256, 128, 64), 5, 1_694_400), ((256, 128), 2, 822_016)]
)
def test_counts_of_the_residual_autoencoder(widths, blocks, count):
    def build(key):
        return autoencoders.init_residual(key, 384, widths, blocks, "xavier")

    params = jax.eval_shape(build, jax.random.key(0))
    assert size(params) == count
    x = jax.ShapeDtypeStruct((2, 384), jnp.float32)
    for network in (
        autoencoders.residual_autoencoder,
        lambda p, x: autoencoders.invariant_autoencoder(p, x, x),
    ):
        output, latent = jax.eval_shape(network, params, x)
        assert (output.shape, latent.shape) == ((2, 384), (2, widths[-1] * blocks))


def linear(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def relu(x):
    return np.maximum(x, 0)


def block(params, k, u):
    e, d = params[f"encoder_{k}"], params[f"decoder_{k}"]
    latent = linear(e["1"], leaky(linear(e["0"], u)))
    return latent, linear(d["1"], relu(linear(d["0"], latent)))


def transition(params, x):
    return linear(params["transition"]["1"], relu(linear(params["transition"]["0"], x)))


def equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_networks_equal_their_transcription():
    x, h = RNG.normal(size=(2, 7, 6))
    key = jax.random.key(0)
    params = numbers(autoencoders.init_residual(key, 6, (5, 4), 3, "xavier"))
    u, latents = [x], []
    for k in range(3):
        latent, delta = block(params, k, u[-1])
        latents.append(latent)
        u.append(u[-1] + delta)
    expected = transition(params, u[-1]), np.concatenate(latents, 1)
    equal(autoencoders.residual_autoencoder(params, x), expected)

    out, latents = x, []
    for k in range(3):
        latent, out = block(params, k, out + h)
        latents.append(latent)
    expected = transition(params, out), np.concatenate(latents, 1)
    equal(autoencoders.invariant_autoencoder(params, x, h), expected)

    params = numbers(autoencoders.init_simple(key, 6, (5, 4), "xavier"))
    e, d = params["encoder"], params["decoder"]
    latent = leaky(linear(e["1"], leaky(linear(e["0"], x))))
    output = relu(linear(d["1"], leaky(linear(d["0"], latent))))
    equal(autoencoders.simple_autoencoder(params, x), (output, latent))
    assert (output == 0).any() and (output >= 0).all() and (latent < 0).any()

    params = numbers(autoencoders.init_layers(key, (6, 5, 4, 3), "xavier"))
    deep = relu(linear(params["1"], relu(linear(params["0"], x))))
    equal([autoencoders.perceptron(params, x)], [linear(params["2"], deep)])
    deep = leaky(linear(params["1"], leaky(linear(params["0"], x))))
    equal([autoencoders.leaky_layers(params, x)], [leaky(linear(params["2"], deep))])


def test_leaky_relu_has_pytorchs_slope_at_zero():
    slopes = jax.vmap(jax.grad(autoencoders.leaky_relu))(jnp.asarray([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(slopes, [0.01, 0.01, 1])


@pytest.mark.parametrize(("name", "deviation"), [("normal", 0.02), ("kaiming", np.sqrt(2 / 200))])
def test_published_starts(name, deviation):
    layers = autoencoders.init_layers(jax.random.key(0), (200, 100, 50), name)
    assert np.std(layers["0"]["kernel"]) == pytest.approx(deviation, rel=0.05)
    assert not layers["0"]["bias"].any()
    assert (layers["1"]["kernel"] != layers["0"]["kernel"][:100, :50]).all()


@pytest.mark.parametrize("name", heads.INITIALIZATIONS)
def test_the_other_starts_are_those_of_heads(name):
    """The same moments and the same largest value."""
    (layer,) = autoencoders.init_layers(jax.random.key(0), (200, 100), name).values()
    head = heads.init_head(jax.random.key(1), 200, 100, name)
    for part in ("kernel", "bias"):
        found, expected = np.asarray(layer[part]), np.asarray(head[part])
        assert found.std() == pytest.approx(expected.std(), rel=0.1)
        tolerance = 0.2 if "untruncated" in name else 0.05
        assert np.abs(found).max() == pytest.approx(np.abs(expected).max(), rel=tolerance)


def test_dropout_depends_on_the_example_and_on_nothing_else():
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(64))
    drop, x = autoencoders.dropout(keys, 0.25), np.ones((64, 100), np.float32)
    kept = drop(x, 0)
    np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.75])
    assert np.mean(kept) == pytest.approx(1, abs=0.03)
    np.testing.assert_array_equal(autoencoders.dropout(keys[5:9], 0.25)(x[5:9], 0), kept[5:9])
    assert (drop(x, 1) != kept).any()
    assert (kept[0] != kept[1]).any()
    np.testing.assert_array_equal(autoencoders.dropout(keys, 0.0)(x, 0), x)


def test_dropout_is_drawn_anew_in_every_step_and_network():
    key = jax.random.key_data(jax.random.key(0))
    batch, x = {"index": jnp.arange(8)}, np.ones((8, 100), np.float32)

    def kept(epoch, place, network="classifier"):
        return example_dropout(key, batch, StepInfo(epoch, place, 6), 0.5)(network)(x, 0) > 0

    found = [kept(0, 0), kept(0, 1), kept(1, 0), kept(1, 1), kept(0, 0, "decoder_a")]
    for one, other in itertools.combinations(found, 2):
        assert np.mean(one == other) == pytest.approx(0.5, abs=0.1)
    np.testing.assert_array_equal(kept(0, 0), found[0])


# ---- CMD ---------------------------------------------------------------------------------------


def golden():
    i, j = np.arange(8)[:, None], np.arange(2)
    return ((3 * i + 4 * j) % 13) / 5, ((7 * i + 2 * j) % 11) / 4


def test_central_moment_discrepancy():
    x, y = golden()
    with jax.enable_x64(True):
        found = losses.central_moment_discrepancy(jnp.asarray(x), jnp.asarray(y), 5)
    assert float(found) == pytest.approx(1.0598934, abs=1e-7)
    garbage = np.full((3, 2), 1e30)
    masked = losses.central_moment_discrepancy(
        np.concatenate([garbage, x]),
        np.concatenate([y, garbage]),
        5,
        np.arange(11) >= 3,
        np.arange(11) < 8,
    )
    assert float(masked) == pytest.approx(1.0598934, rel=1e-5)


def test_samples_that_are_alike_or_empty_have_no_discrepancy_and_a_finite_gradient():
    x, _ = golden()
    for mask in (np.ones(8, bool), np.zeros(8, bool)):
        value, gradient = jax.value_and_grad(losses.central_moment_discrepancy)(
            jnp.asarray(x), jnp.asarray(x), 5, mask
        )
        assert value == 0 and not gradient.any()


# ---- Raw vectors -------------------------------------------------------------------------------


def test_raw_vectors_are_inputs_where_they_are_short_and_numbers():
    encoders = Encoders({m: Mlp(4, 2) for m in "abcd"}, 4)
    rng = np.random.default_rng(0)
    inputs = {
        "a": rng.normal(size=(3, 2, 5)).astype(np.float32),
        "b": rng.integers(0, 9, (3, 6)).astype(np.int32),
        "c": rng.integers(0, 9, (3, 8, 8, 1)).astype(np.uint8),
        "d": rng.normal(size=(3, 4097)).astype(np.float32),
    }
    kinds = targets.raw_or_features(encoders, inputs)
    assert kinds == {"a": "input", "b": "features", "c": "features", "d": "features"}
    assert targets.raw_widths(encoders, inputs) == {"a": 10, "b": 4, "c": 4, "d": 4}
    params, batch_stats = encoders.init(jax.random.key(0), inputs)

    def total(params):
        variables = {"params": {"encoder": params}, "batch_stats": batch_stats}
        found = targets.raw_vectors(encoders, variables, inputs)
        return sum(x.sum() for x in found.values()), found

    gradient, found = jax.grad(total, has_aux=True)(params)
    assert not any(x.any() for x in jax.tree.leaves(gradient))
    np.testing.assert_array_equal(found["a"], inputs["a"].reshape(3, -1))
    z, _ = encoders.apply("b", params["b"], batch_stats["b"], inputs["b"], train=False)
    np.testing.assert_allclose(found["b"], z, rtol=1e-6)
    assert {x.dtype for x in found.values()} == {jnp.dtype("float32")}


# ---- Sizes and calendar ------------------------------------------------------------------------


def build(name, D=128, modalities=("audio", "text", "visual"), **switches):
    encoders = Encoders({m: Mlp(D, 128) for m in modalities}, D)
    block = {"name": name, "fidelity": "paper", **switches}
    resolved = fields.ConfigDict(fields.resolve_switches(block))
    optimizer = create_optimizer(fields.base_config().optimizer, 60)
    return methods.create_method(resolved, encoders, optimizer, Task(4, 60, 100))


def heads_of(method):
    inputs = {"audio": 512, "text": 1024, "visual": 1024}
    batch = {"inputs": {m: np.zeros((1, n), np.float32) for m, n in inputs.items()}}
    return jax.eval_shape(method.init, jax.random.key(0), batch).params["head"]


def perceptron_size(inputs, outputs):
    return inputs * 128 + 128 + 128 * 128 + 128 + 128 * outputs + outputs


def test_counts_of_the_heads_are_the_published_ones():
    simple = sum(a * b + b for a, b in itertools.pairwise((384, 256, 128, 256, 384)))
    decoders = {f"decoder_{m}": perceptron_size(384, n)
                for m, n in (("audio", 512), ("text", 1024), ("visual", 1024))}  # fmt: skip
    own = {**decoders, "classifier": perceptron_size(384, 4)}
    cascade, student = 1_694_400, perceptron_size(320, 4)
    expected = {
        "ae": {**own, "autoencoder": simple},
        "cra": {**own, "autoencoder": 822_016},
        "mmin": {"teacher": perceptron_size(384, 4), "forward": cascade, "backward": cascade,
                 "classifier": student},
        "if_mmin": {"teacher": perceptron_size(768, 4), "invariant": 2 * (128 * 128 + 128),
                    "forward": cascade, "classifier": student},
    }  # fmt: skip
    for name, counts in expected.items():
        assert {k: size(head) for k, head in heads_of(build(name)).items()} == counts, name
    # With GCNet's encoders, d_m -> 128 -> 128 -> 128, MMIN has 3,874,052 parameters.
    student_heads = 2 * cascade + student
    encoders = sum(perceptron_size(n, 128) for n in (512, 1024, 1024))
    assert student_heads + encoders == 3_874_052


def test_widths_can_be_given():
    heads = heads_of(build("cra", layers=(256, 200, 128), blocks=3, head_layers=(7,)))
    assert set(heads["autoencoder"]) == {
        "transition",
        *(f"{kind}_{k}" for kind in ("encoder", "decoder") for k in range(3)),
    }
    kernels = [layer["kernel"].shape for layer in heads["autoencoder"]["decoder_0"].values()]
    assert kernels == [(128, 200), (200, 256), (256, 384)]
    kernels = [layer["kernel"].shape for layer in heads["classifier"].values()]
    assert kernels == [(384, 7), (7, 4)]
    for given in ((0,), (2.5,), (True,), ("a",), (10**30,)):
        with pytest.raises(UserError, match=r"method\.layers=.*integers from 1 to"):
            build("ae", layers=given)
    for switch in ("dropout", "teacher_dropout"):
        with pytest.raises(UserError, match=rf"method\.{switch} must be .* less than 1"):
            build("mmin", **{switch: 1.0})


def test_stages():
    def calendar(name, **switches):
        return [(s.name, s.epochs) for s in build(name, **switches).stages]

    assert calendar("ae") == calendar("cra") == [("joint", 60)]
    assert calendar("mmin") == [("teacher", 20), ("imagination", 60)]
    assert calendar("if_mmin") == [("teacher", 30), ("imagination", 60)]
    assert calendar("mmin", teacher_epochs=7)[0] == ("teacher", 7)
