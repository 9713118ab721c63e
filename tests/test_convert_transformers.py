"""Checkpoints of M3AE and CAV-MAE: both ways, conventions, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from mla_jax import convert
from mla_jax.convert import files, layouts
from mla_jax.convert.__main__ import main
from mla_jax.encoders import create_encoders
from mla_jax.errors import UserError
from tests import transformer_reference as reference
from tests.transformer_reference import CAVMAE, M3AE, prefixed, same_bits, save

D = reference.WIDTH
ENCODERS = {
    "text": {"name": "m3ae_text", "size": "tiny", "vocabulary": reference.VOCABULARY},
    "image": {"name": "m3ae_image", "size": "tiny"},
    "audio": {"name": "cavmae_audio", "size": "tiny"},
    "visual": {"name": "cavmae_visual", "size": "tiny"},
}


def classifier(towers, classes=5):
    tensors = {}
    for i, (prefix, shapes) in enumerate(towers.items()):
        tensors |= prefixed(f"{prefix}.", reference.weights(shapes, seed=i))
    shapes = {"fusion_module.fc_out.weight": (classes, D), "fusion_module.fc_out.bias": (classes,)}
    return prefixed("module.", tensors | reference.weights(shapes))


M, C = reference.m3ae_shapes(), reference.cavmae_shapes()
CLASSIFIERS = {
    "text+image": classifier({"mae_a": M, "mae_v": M}),
    "audio+visual": classifier({"mae_a": C, "mae_v": C}),
    "audio+image+text": classifier({"mae_a": C, "mae_v": M, "mae_t": M}),
}
FILES = {
    "m3ae": (M3AE, ("text", "image"), "released", 0),
    "m3ae under DataParallel": (prefixed("module.", M3AE), ("text", "image"), "released", 0),
    # Norms: 8 of each modality's own block, 4 of the shared one, 2 after it; and the classifier.
    "cavmae": (prefixed("module.", CAVMAE), ("audio", "visual"), "pretraining", 8 + 8 + 4 + 2 + 1),
}


@pytest.mark.parametrize("name", FILES)
def test_a_backbone_there_and_back(tmp_path, name):
    tensors, modalities, convention, left_out = FILES[name]
    source, back = save(tmp_path / "a.safetensors", tensors), str(tmp_path / "b.safetensors")
    assert main([f"--from={source}", f"--to={tmp_path / 'converted'}"]) == 0
    assert main([f"--from={tmp_path / 'converted'}", f"--to={back}"]) == 0
    _, manifest = files.read_directory(tmp_path / "converted")
    assert tuple(manifest["towers"]) == modalities
    assert {m: c["name"] for m, c in manifest["conventions"].items()} == dict.fromkeys(
        modalities, convention
    )
    unused = {f"{manifest['prefix']}{n}" for n in manifest["left_out"]}
    assert len(unused) == left_out
    kept = {n: v for n, v in tensors.items() if n not in unused}
    assert same_bits(safetensors.numpy.load_file(back), kept)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_there_and_back(tmp_path, name):
    tensors = CLASSIFIERS[name]
    convert.convert(save(tmp_path / "a.safetensors", tensors), tmp_path / "converted")
    convert.convert(tmp_path / "converted", tmp_path / "b.safetensors")
    back = safetensors.numpy.load_file(tmp_path / "b.safetensors")
    _, manifest = files.read_directory(tmp_path / "converted")
    assert "+".join(manifest["towers"]) == name
    assert manifest["heads"] == {"shared": "fusion_module.fc_out"}
    gone = {f"module.{n}" for n in manifest["left_out"]}
    assert same_bits(back, {n: v for n, v in tensors.items() if n not in gone})
    halves = [n for n in gone if "text_embedding" in n or "image_embedding" in n]
    assert bool(halves) == ("image" in name)
    # And from a run of ours, whose encoders say what they are.
    variables = convert.load_initial(tmp_path / "converted")
    with pytest.raises(UserError, match="pass conventions"):
        convert.save_variables(tmp_path / "ours", variables)
    convert.save_variables(tmp_path / "ours", variables, manifest["conventions"])
    convert.convert(tmp_path / "ours", tmp_path / "c.safetensors")
    assert same_bits(safetensors.numpy.load_file(tmp_path / "c.safetensors"), back)


def test_shapes_and_names_are_those_of_the_encoders():
    converted, _ = layouts.from_torch(CLASSIFIERS["audio+image+text"], "it")
    converted |= layouts.from_torch(CAVMAE, "it", ("", "visual"))[0]
    tree = traverse_util.unflatten_dict(converted, sep="/")["params"]["encoder"]
    kinds = {"text": "m3ae_text", "image": "m3ae_image"}
    for m in ENCODERS:
        x = reference.inputs(kinds.get(m, f"cavmae_{m}"))
        encoders = create_encoders({m: ENCODERS[m]}, (m,), D, jnp.float32)
        shapes, _ = jax.eval_shape(encoders.init, jax.random.key(0), {m: x})
        assert jax.tree.map(np.shape, tree[m]) == jax.tree.map(np.shape, shapes[m])


def test_the_shared_block_has_the_norms_of_its_modality():
    tensors, _ = layouts.from_torch(CAVMAE, "it")
    for m, letter in (("audio", "a"), ("visual", "v")):
        at = f"params/encoder/{m}"
        scale = tensors[f"{at}/block_1/norm2/scale"]
        np.testing.assert_array_equal(scale, CAVMAE[f"blocks_u.0.norm2_{letter}.weight"])
        scale = tensors[f"{at}/block_0/norm2/scale"]
        np.testing.assert_array_equal(scale, CAVMAE[f"blocks_{letter}.0.norm2.weight"])


def test_encoders_trained_apart_do_not_go_into_one_file(tmp_path):
    tensors, manifest = layouts.from_torch(M3AE, "it")
    tensors["params/encoder/text/cls_token"] = tensors["params/encoder/text/cls_token"] + 1
    with pytest.raises(UserError, match="different values for cls_token"):
        layouts.back_to_torch(tensors, manifest, "it")


def without(tensors, name):
    return {n: v for n, v in tensors.items() if n != name}


QKV = "encoder.blocks.1.attention.qkv_linear.weight"


@pytest.mark.parametrize(
    ("tensors", "modalities", "words"),
    [
        (without(M3AE, QKV), (), rf"1 missing \({QKV}\)"),
        (M3AE | {"encoder.blocks.2.layer_norm1.bias": M3AE["cls_token"]}, (), "1 unexpected"),
        (M3AE | {QKV: M3AE[QKV].T}, (), r"\(64, 192\) instead of \(192, 64\)"),
        (M3AE | {QKV: M3AE[QKV].astype(np.float64)}, (), f"{QKV} float64"),
        (M3AE, ("text",), "for two modalities"),
        (M3AE, ("", ""), "for two modalities"),
        (M3AE, ("a", "a"), "for two modalities"),
        (without(M3AE, "text_embedding.weight"), (), "missing .text_embedding.weight"),
        (without(CAVMAE, "blocks_a.0.mlp.fc1.bias"), (), "1 missing .blocks_a.0.mlp.fc1.bias"),
        (CAVMAE | {"blocks_x.0.bias": CAVMAE["norm.bias"]}, (), "1 unexpected .blocks_x"),
        (CLASSIFIERS["text+image"], ("", "image"), "for two modalities"),
        (prefixed("module.", {"x": QKV}), (), "begins with x"),
    ],
)
def test_what_does_not_fit_is_refused(tensors, modalities, words):
    with pytest.raises(UserError, match=words):
        layouts.from_torch(tensors, "it", modalities)


def test_an_encoder_can_be_left_out():
    tensors, manifest = layouts.from_torch(M3AE, "it", ("", "photo"))
    assert manifest["left_out"] == ["encoder_text_type_embedding", "text_embedding.weight"]
    assert {name.split("/")[2] for name in tensors} == {"photo"}


def test_an_encoder_is_left_out_on_the_command_line(tmp_path):
    source = save(tmp_path / "a.safetensors", CAVMAE)
    target = tmp_path / "converted"
    assert main([f"--from={source}", f"--to={target}", "--modalities=sound+"]) == 0
    _, manifest = files.read_directory(target)
    assert manifest["backbones"] == {"sound": "cavmae_audio"}


def test_heads_of_three_encoders():
    tensors = CLASSIFIERS["audio+image+text"]
    for head in ("module.audio_fc", "module.visual_fc", "module.txtual_fc"):
        tensors = tensors | {f"{head}.weight": np.ones((4, D), np.float32)}
        tensors |= {f"{head}.bias": np.ones(4, np.float32)}
    converted, manifest = layouts.from_torch(tensors, "it")
    assert manifest["heads"] == {
        "audio": "audio_fc",
        "image": "visual_fc",
        "text": "txtual_fc",
        "shared": "fusion_module.fc_out",
    }
    assert converted["params/head/text/kernel"].shape == (D, 4)


def test_conventions_are_recorded_as_told(tmp_path, capsys):
    source = save(tmp_path / "a.safetensors", M3AE)
    target = f"--to={tmp_path / 'converted'}"
    assert main([f"--from={source}", target, "--convention=pretraining"]) == 0
    _, manifest = files.read_directory(tmp_path / "converted")
    assert manifest["conventions"]["image"]["patch_order"] == "row_column_channel"
    assert manifest["conventions"]["text"]["epsilon"] == 1e-6
    assert main([f"--from={source}", target, "--convention=pre"]) == 2
    assert "convention of 'm3ae_text' 'pre'" in capsys.readouterr().err
