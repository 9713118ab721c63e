"""The first weights of a run: from raw files and converted ones, under their convention."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mla_jax import convert
from mla_jax.encoders import Encoders, create_encoders
from mla_jax.errors import UserError
from mla_jax.runs.initial import initialize_from
from mla_jax.state import TrainState
from tests import transformer_reference as reference
from tests.transformer_reference import CAVMAE, M3AE, prefixed, save

D = reference.WIDTH
ENCODERS = {
    "text": {"name": "m3ae_text", "size": "tiny", "vocabulary": reference.VOCABULARY},
    "image": {"name": "m3ae_image", "size": "tiny"},
    "audio": {"name": "cavmae_audio", "size": "tiny"},
    "visual": {"name": "cavmae_visual", "size": "tiny"},
}


def run_of(*modalities, **fields):
    """The state and the conventions of a fresh run, all zeros."""
    shapes = {}
    kinds = {"text": "m3ae_text", "image": "m3ae_image"}
    configs = {m: {**ENCODERS[m], **fields.get(m, {})} for m in modalities}
    for m in modalities:
        x = reference.inputs(kinds.get(m, f"cavmae_{m}"))
        module = create_encoders({m: configs[m]}, (m,), D, jnp.float32).modules[m]
        shapes[m] = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    encoder = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    head = {"kernel": np.zeros((D, 5), np.float32), "bias": np.zeros(5, np.float32)}
    state = TrainState(
        {"encoder": encoder, "head": {"shared": head}}, {m: {} for m in modalities}, {}
    )
    return state, create_encoders(configs, modalities, D, jnp.float32).conventions


def taken(paths, *modalities, **fields):
    state, conventions = run_of(*modalities, **fields)
    said = []
    found = initialize_from(paths, state, said.append, conventions)
    return found.params["encoder"], said


def filled(tree):
    return all(np.any(leaf) for leaf in jax.tree.leaves(tree))


RELEASED = {m: {"convention": "released"} for m in ("text", "image")}


@pytest.mark.parametrize("modalities", [("text", "image"), ("image",), ("image", "audio")])
def test_a_raw_m3ae_goes_where_its_like_is(tmp_path, modalities):
    path = save(tmp_path / "m3ae.safetensors", M3AE)
    encoders, said = taken(path, *modalities, **RELEASED)
    for m in modalities:
        assert filled(encoders[m]) == (m != "audio")
    assert ("encoder audio" in "".join(said[1:])) == ("audio" in modalities)


def test_several_checkpoints_make_one_run(tmp_path):
    m3ae = save(tmp_path / "m3ae.safetensors", M3AE)
    cavmae = save(tmp_path / "cavmae.safetensors", CAVMAE)
    encoders, said = taken(f"{cavmae},{m3ae}", "audio", "image", "text", **RELEASED)
    assert all(map(filled, encoders.values()))
    assert said[1:] == ["not in that checkpoint with this shape, so newly initialised: head shared"]
    with pytest.raises(UserError, match="two of these checkpoints hold an encoder for 'image'"):
        taken(f"{m3ae},{m3ae}", "audio", "image", "text", **RELEASED)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"image": {"convention": "released"}},
            "'text' were made for epsilon=1e-05, gelu=exact, text_length=256, but encoders.text",
        ),
        (
            {**RELEASED, "image": {}},
            "'image' were made for patch_order=channel_row_column.*differs_from_weights",
        ),
        ({**RELEASED, "text": {"convention": "released", "text_length": 300}}, "text_length=300"),
        (
            {**RELEASED, "image": {"differs_from_weights": ("patch_order", "epsilon", "gelu")}},
            "made for image_normalization=imagenet, but encoders.image is configured with image_n",
        ),
    ],
)
def test_weights_of_another_convention_are_refused(tmp_path, fields, words):
    path = save(tmp_path / "m3ae.safetensors", M3AE)
    convert.convert(path, tmp_path / "converted")
    for source in (path, tmp_path / "converted"):
        with pytest.raises(UserError, match=words):
            taken(source, "text", "image", **fields)


def test_weights_of_another_convention_are_taken_on_purpose(tmp_path):
    path = save(tmp_path / "m3ae.safetensors", M3AE)
    longer = {"convention": "released", "text_length": 300, "differs_from_weights": "text_length"}
    encoders, _ = taken(path, "text", text=longer)
    assert filled(encoders["text"])
    cavmae = save(tmp_path / "cavmae.safetensors", CAVMAE)
    with pytest.raises(UserError, match="fbank_normalization=audioset, but"):
        taken(cavmae, "audio", audio={"convention": "released"})


def test_an_encoder_that_may_differ_in_what_it_does_not_have():
    class Half(nn.Module):
        differs_from_weights: tuple[str, ...] = ()

    encoders = Encoders({"a": Half(("gelu",))}, 8)
    with pytest.raises(UserError, match="of 'a' has the field 'differs_from_weights' but no 'sw"):
        _ = encoders.conventions
    assert Encoders({"a": Half()}, 8).conventions == {"a": {}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(conventions={}), "does not record what the weights for 'image'"),
        (lambda m: m.pop("conventions"), "is not a manifest"),
        (lambda m: m.update(format=1), "has format 1; this version reads 2"),
    ],
)
def test_a_manifest_that_says_too_little(tmp_path, change, words):
    path = tmp_path / "converted"
    convert.convert(save(tmp_path / "m3ae.safetensors", M3AE), path)
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=words):
        taken(path, "text", "image", **RELEASED)


def test_a_file_for_other_encoders_is_refused(tmp_path):
    path = save(tmp_path / "m3ae.safetensors", M3AE)
    with pytest.raises(UserError, match="holds an encoder for text, image, but this run has audio"):
        taken(path, "audio")
    wide = {"vocabulary": 60, "convention": "released"}
    with pytest.raises(UserError, match=r"text_embedding/embedding \(50, 64\) instead of \(60, 64"):
        taken(path, "text", text=wide)


def test_pytorch_files(tmp_path):
    torch = pytest.importorskip("torch")
    content = {name: torch.tensor(v) for name, v in prefixed("module.", CAVMAE).items()}
    torch.save(content, tmp_path / "cavmae.pth")
    encoders, _ = taken(str(tmp_path / "cavmae.pth"), "audio")
    assert filled(encoders["audio"])
    kernel = encoders["audio"]["patch_embedding"]["kernel"]
    weight = CAVMAE["patch_embed_a.proj.weight"]
    np.testing.assert_array_equal(kernel.reshape(16, 16, D), weight[:, 0].transpose(1, 2, 0))
