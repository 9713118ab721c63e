"""M3AE and CAV-MAE against PyTorch's numbers, their switches, precision and memory."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mla_jax.convert import layouts
from mla_jax.encoders import REGISTRY, conventions, create_encoders
from mla_jax.encoders.transformer import patches, positions_2d
from mla_jax.errors import UserError
from tests import transformer_reference as reference

D = reference.WIDTH
HASTE = {"xla_backend_optimization_level": 0}  # compiled for its results, not for speed


@functools.cache
def stored():
    with np.load(reference.FIXTURE) as file:
        return {name: file[name] for name in file.files}


@functools.cache
def parameters(encoder):
    """Our parameters of the formula's checkpoint, by way of the conversion."""
    tensors, manifest = layouts.from_torch(reference.state_dict(encoder), "it")
    modality = next(m for m, name in manifest["backbones"].items() if name == encoder)
    tree = traverse_util.unflatten_dict(tensors, sep="/")
    return tree["params"]["encoder"][modality]


def build(encoder, dtype=jnp.float32, **fields):
    fields = {"size": "tiny", **fields}
    if encoder == "m3ae_text":
        fields = {"vocabulary": reference.VOCABULARY, **fields}
    return REGISTRY[encoder](feature_dim=D, dtype=dtype, **fields)


def features(encoder, x=None, dtype=jnp.float32, **fields):
    x = reference.inputs(encoder) if x is None else x
    params = {"params": parameters(encoder)}
    apply = jax.jit(build(encoder, dtype, **fields).apply, compiler_options=HASTE)
    return np.asarray(apply(params, x))


@pytest.mark.parametrize("case", reference.CASES)
def test_features_are_those_of_pytorch(case):
    encoder, fields, _ = reference.CASES[case]
    found = features(encoder, **fields)
    assert np.abs(stored()[case]).max() > 0.5
    np.testing.assert_allclose(found, stored()[case], rtol=1e-5, atol=1e-5)


def test_the_cases_differ():
    """So that a switch that is not wired cannot go unnoticed."""
    for encoder in ("m3ae_text", "m3ae_image", "cavmae_audio"):
        cases = [case for case, row in reference.CASES.items() if row[0] == encoder]
        for i, one in enumerate(cases):
            for other in cases[:i]:
                gap = np.abs(stored()[one] - stored()[other]).max()
                assert gap > 1e-4, (one, other)


def gradient(encoder, fields, path, remat=False):
    module, x = build(encoder, remat=remat, **fields), reference.inputs(encoder)

    @functools.partial(jax.jit, compiler_options=HASTE)
    def of_all(params):
        return jax.grad(lambda p: (module.apply({"params": p}, x) ** 2).sum())(params)

    flat = traverse_util.flatten_dict(of_all(parameters(encoder)), sep="/")
    return np.asarray(flat[path]) if path else flat


OURS = {
    "text/pretraining": "block_0/attention/qkv/bias",
    "image/released": "block_1/perceptron/fc1/bias",
    "audio/pretraining": "modality_embedding",
    "visual/pretraining": "block_1/norm1/scale",
}


@pytest.mark.parametrize("case", reference.GRADIENTS)
def test_gradients_are_those_of_pytorch(case):
    encoder, fields, _ = reference.CASES[case]
    expected = stored()[f"{case}/gradient"]
    found = gradient(encoder, fields, OURS[case])
    scale = np.abs(expected).max()
    assert scale > 0.1
    np.testing.assert_allclose(found / scale, expected / scale, rtol=1e-5, atol=1e-5)


def test_the_fixture_is_what_pytorch_computes():
    pytest.importorskip("torch")
    found = reference.compute()
    assert found.keys() == stored().keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, stored()[name], rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("encoder", ["m3ae_text", "cavmae_visual"])
def test_recomputing_changes_no_gradient(encoder):
    kept, recomputed = (gradient(encoder, {}, "", remat) for remat in (False, True))
    for name, value in kept.items():
        scale = np.abs(value).max() + 1e-6
        np.testing.assert_allclose(recomputed[name] / scale, value / scale, atol=2e-6, err_msg=name)
    module = build(encoder, remat=True)
    x = reference.inputs(encoder)
    forward = jax.make_jaxpr(lambda p: module.apply({"params": p}, x))(parameters(encoder))
    names = [equation.primitive.name for equation in forward.eqns]
    assert sum("remat" in name or "checkpoint" in name for name in names) == 2  # one a block


@pytest.mark.parametrize("encoder", ["m3ae_text", "m3ae_image", "cavmae_audio"])
def test_bfloat16_is_finite_and_close(encoder):
    exact, rounded = features(encoder), features(encoder, dtype=jnp.bfloat16)
    assert rounded.dtype == np.float32 and np.isfinite(rounded).all()
    gap = np.abs(rounded - exact).max()
    assert 0 < gap < 0.05 * np.abs(exact).max()


def test_padding_beyond_a_text_changes_nothing_that_is_valid():
    ids = reference.inputs("m3ae_text")
    longer = np.pad(ids, ((0, 0), (0, 5)))
    for fields in ({}, {"pool": "cls"}):
        same = features("m3ae_text", longer, **fields)
        np.testing.assert_allclose(same, features("m3ae_text", ids, **fields), atol=1e-5)
    fields = {"convention": "released"}
    changed = features("m3ae_text", longer, **fields) - features("m3ae_text", ids, **fields)
    assert (np.abs(changed).max(1) > 1e-2).all()  # quirk Q12, and Q21 for the last


def test_images_as_bytes_as_floats_and_as_frames():
    for encoder, statistics in (("m3ae_image", "cc12m"), ("cavmae_visual", "imagenet")):
        images = reference.inputs(encoder)
        expected = features(encoder, images)
        mean, deviation = (np.array(v) for v in conventions.IMAGE_STATISTICS[statistics])
        floats = ((images / 255.0 - mean) / deviation).astype(np.float32)
        np.testing.assert_allclose(features(encoder, floats), expected, atol=2e-5)
        clip = np.stack([images, images[:, ::-1]], 1)
        both = (expected + features(encoder, images[:, ::-1])) / 2
        np.testing.assert_allclose(features(encoder, clip), both, atol=1e-5)


def test_filter_banks_with_a_channel_are_the_same():
    x = reference.inputs("cavmae_audio")
    np.testing.assert_array_equal(features("cavmae_audio", x[..., None]), features("cavmae_audio"))


def test_patch_orders_are_a_permutation_of_the_kernel_rows():
    """Quirk Q19: row (c, i, j) of the one order is row (16 i + j) 3 + c of the other."""
    x = np.random.default_rng(0).normal(size=(1, 32, 16, 3)).astype(np.float32)
    first, last = (np.asarray(patches(x, order)) for order in conventions.CHOICES["patch_order"])
    assert first.shape == (1, 2, 1, 768)
    c, i, j = np.meshgrid(np.arange(3), np.arange(16), np.arange(16), indexing="ij")
    np.testing.assert_array_equal(last, first[..., ((16 * i + j) * 3 + c).ravel()])
    np.testing.assert_array_equal(first[0, 1, 0, :3], x[0, 16, 0])


def test_positions_put_the_column_first():
    grid = positions_2d(2, 3, 8)
    assert grid.shape == (6, 8)
    np.testing.assert_array_equal(grid[0], [0, 0, 1, 1] * 2)
    np.testing.assert_array_equal(grid[:3, 4:], grid[[0, 0, 0], 4:])  # one row: the second half
    np.testing.assert_allclose(grid[5, [0, 2, 4, 6]], [*_sine(2), *_sine(1)], rtol=1e-6)


def _sine(x):
    return np.sin(x), np.cos(x)


SWITCHES = {
    ("m3ae_text", "pretraining"): {"epsilon": 1e-6, "gelu": "tanh", "text_length": 64},
    ("m3ae_text", "released"): {"epsilon": 1e-5, "gelu": "exact", "text_length": 256},
    ("cavmae_audio", "pretraining"): {"fbank_normalization": "audioset"},
    ("cavmae_audio", "released"): {"fbank_normalization": "none"},
    ("m3ae_image", "pretraining"): {
        "patch_order": "row_column_channel",
        "image_normalization": "cc12m",
    },
    ("m3ae_image", "released"): {
        "patch_order": "channel_row_column",
        "image_normalization": "imagenet",
    },
}


@pytest.mark.parametrize(("encoder", "convention"), SWITCHES)
def test_a_convention_sets_the_switches_and_each_can_be_set_alone(encoder, convention):
    module = build(encoder, convention=convention)
    assert SWITCHES[encoder, convention].items() <= dict(module.switches).items()
    changed = build(encoder, convention=convention, epsilon=1e-3).switches
    assert changed == {**module.switches, "epsilon": 1e-3}


def test_streams_are_normalised_as_the_weights_expect():
    stream = collections.namedtuple("stream", "mean std test_mean test_std crop")
    given = stream((0.5,), (2.0,), (0.1,), (0.2,), 224)
    configs = {
        "image": {"name": "m3ae_image", "size": "tiny"},
        "audio": {"name": "cavmae_audio", "size": "tiny"},
        "other": {"name": "mlp"},
    }
    encoders = create_encoders(configs, tuple(configs), D, jnp.float32)
    fitted = encoders.fitted(dict.fromkeys(configs, given))
    assert fitted == {
        "image": stream(*conventions.IMAGE_STATISTICS["cc12m"], (), (), 224),
        "audio": stream((), (), (), (), 224),
        "other": given,
    }
    assert encoders.fitted({}) == {}


def made(name, x, feature_dim=D, **fields):
    fields = {"size": "tiny", **fields} if name != "features" else fields
    encoders = create_encoders({"m": {"name": name, **fields}}, ("m",), feature_dim, jnp.float32)
    return jax.eval_shape(lambda x: encoders.init(jax.random.key(0), {"m": x}), x)


@pytest.mark.parametrize(
    ("name", "shape", "fields", "words"),
    [
        ("m3ae_text", (2, 8), {"size": "base"}, "width 768, not 64: set feature_dim=768"),
        ("m3ae_image", (2, 32, 32, 3), {"size": "bas"}, "size of encoder 'm3ae_image' 'bas'.*base"),
        ("cavmae_audio", (2, 32, 32), {"feature_dim": 32}, "width 64, not 32"),
        ("m3ae_image", (2, 30, 32, 3), {}, "30x32 is not a multiple"),
        ("m3ae_image", (2, 32, 32, 1), {}, r"m3ae_image takes .*\(1, 32, 32, 1\)"),
        ("cavmae_visual", (2, 32, 32, 1), {}, "cavmae_visual takes"),
        ("cavmae_audio", (2, 32, 32, 3), {}, "cavmae_audio takes"),
        ("m3ae_text", (2, 65), {}, "at most text_length=64 tokens, not 65"),
        ("m3ae_text", (2, 8, 2), {}, "m3ae_text takes token ids"),
        ("m3ae_text", (2, 8), {"convention": "relased"}, "did you mean 'released'"),
        ("m3ae_image", (2, 32, 32, 3), {"patch_order": "chw"}, "patch_order of encoder"),
        ("m3ae_image", (2, 32, 32, 3), {"gelu": "erf"}, "gelu of encoder 'm3ae_image' 'erf'"),
        ("m3ae_text", (2, 8), {"differs_from_weights": ("gel",)}, "did you mean 'gelu'"),
        ("features", (2, 8), {}, "width 8 but feature_dim is 64: set feature_dim=8 or projection="),
        ("features", (2, 8, 8, 8), {}, "encoder 'features' takes"),
        ("features", (2, 64), {"projection": "mlp"}, "projection of encoder 'features' 'mlp'"),
    ],
)
def test_what_is_refused(name, shape, fields, words):
    x = np.zeros(shape, np.int32 if name == "m3ae_text" else np.float32)
    with pytest.raises(UserError, match=words):
        made(name, x, **fields)
