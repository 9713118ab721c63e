"""Checkpoints of M3AE and CAV-MAE: both ways, M3AE's pickle, conventions, and what is refused."""

import codecs
import functools
import io
import json
import os
import pickle
import sys
import types

import cloudpickle
import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from flax import traverse_util
from flax.training.train_state import TrainState as TheirTrainState
from ml_collections import ConfigDict, config_dict

from mla_jax import convert
from mla_jax.convert import files, layouts, pickles, transformers
from mla_jax.convert.__main__ import main
from mla_jax.encoders import create_encoders
from mla_jax.errors import UserError
from mla_jax.state import TrainState
from tests import transformer_reference as reference

D = reference.WIDTH
M3AE = reference.weights(reference.m3ae_shapes())
CAVMAE = reference.weights(reference.cavmae_shapes())
ENCODERS = {
    "text": {"name": "m3ae_text", "size": "tiny", "vocabulary": reference.VOCABULARY},
    "image": {"name": "m3ae_image", "size": "tiny"},
    "audio": {"name": "cavmae_audio", "size": "tiny"},
    "visual": {"name": "cavmae_visual", "size": "tiny"},
}


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


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


def save(path, tensors):
    safetensors.numpy.save_file(tensors, path)
    return str(path)


def same_bits(a, b):
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


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


def test_conventions_are_recorded_as_told(tmp_path, capsys):
    source = save(tmp_path / "a.safetensors", M3AE)
    target = f"--to={tmp_path / 'converted'}"
    assert main([f"--from={source}", target, "--convention=pretraining"]) == 0
    _, manifest = files.read_directory(tmp_path / "converted")
    assert manifest["conventions"]["image"]["patch_order"] == "row_column_channel"
    assert manifest["conventions"]["text"]["epsilon"] == 1e-6
    assert main([f"--from={source}", target, "--convention=pre"]) == 2
    assert "convention of 'm3ae_text' 'pre'" in capsys.readouterr().err


# ---- M3AE's own pickle --------------------------------------------------------------------------


def original_tree():
    """``M3AE`` as the tree of its own code, with a decoder."""
    tree = {}
    for part in ("text", "image"):
        for row in transformers.m3ae_rows(part, D, reference.VOCABULARY):
            value = M3AE[row.torch]
            value = value.T if row.kind == "linear" else value
            tree[transformers.m3ae_original(row).torch] = np.ascontiguousarray(value)
    tree["decoder/Block_0/LayerNorm_0/scale"] = np.ones(4, np.float32)
    tree["image_mask_embedding"] = np.ones((1, 1, 4), np.float32)
    return traverse_util.unflatten_dict(tree, sep="/")


def test_the_original_names_are_these():
    names = traverse_util.flatten_dict(original_tree(), sep="/").keys()
    assert {
        "cls_token",
        "encoder_text_type_embedding",
        "text_embedding/embedding",
        "image_embedding/kernel",
        "encoder/LayerNorm_0/bias",
        "encoder/Block_1/LayerNorm_1/scale",
        "encoder/Block_1/Attention_0/Dense_0/kernel",
        "encoder/Block_1/Attention_0/Dense_1/bias",
        "encoder/Block_1/TransformerMLP_0/fc2/kernel",
    } <= names


@pytest.fixture
def train_state_class():
    """The training state of a module ``m3ae.model``, which only the writer can import."""

    class M3AETrainState(TheirTrainState):
        tokenizer_params: flax.core.FrozenDict | None = None

    modules = {name: types.ModuleType(name) for name in ("m3ae", "m3ae.model")}
    modules["m3ae.model"].M3AETrainState = M3AETrainState
    M3AETrainState.__module__, M3AETrainState.__qualname__ = "m3ae.model", "M3AETrainState"
    sys.modules.update(modules)
    yield M3AETrainState
    for name in modules:
        sys.modules.pop(name, None)


def checkpoint(train_state_class, array=np.asarray):
    """What M3AE saves: its state with the optimiser, whose functions hold on to its settings."""
    settings = ConfigDict({"model_type": config_dict.placeholder(str), "no_decay": ["bias"]})

    def mask(params):
        flat = traverse_util.flatten_dict(params)
        kept = {key: all(k not in settings.no_decay for k in key) for key in flat}
        return traverse_util.unflatten_dict(kept)

    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-4, 10, 100, 0.0)
    state = train_state_class.create(
        params={"params": original_tree()},
        apply_fn=None,
        tx=optax.chain(optax.clip_by_global_norm(1e9), optax.adamw(schedule, mask=mask)),
    )
    state = state.replace(params=jax.tree.map(array, state.params))
    return {"step": 3, "epoch": 1, "variant": {"batch_size": 8}, "state": state}


def frozen(content):
    params = content["state"].params
    return content | {"state": content["state"].replace(params=flax.core.freeze(params))}


@pytest.mark.parametrize(
    ("array", "write"),
    [
        (np.asarray, cloudpickle.dumps),
        (jnp.asarray, cloudpickle.dumps),
        (np.asarray, lambda content: cloudpickle.dumps(frozen(content))),
        (np.asarray, lambda content: cloudpickle.dumps(content, protocol=2)),
        (np.asfortranarray, lambda content: cloudpickle.dumps(content, protocol=4)),
        (lambda x: np.asarray(x, ">f4"), cloudpickle.dumps),
    ],
    ids=["numpy", "jax", "frozen", "protocol 2", "protocol 4, transposed", "another byte order"],
)
def test_the_pickle_gives_what_the_pytorch_conversion_gives(
    tmp_path, train_state_class, array, write
):
    (tmp_path / "model.pkl").write_bytes(write(checkpoint(train_state_class, array)))
    for name in ("m3ae", "m3ae.model"):
        del sys.modules[name]
    convert.convert(tmp_path / "model.pkl", tmp_path / "converted")
    tensors, manifest = files.read_directory(tmp_path / "converted")
    expected, _ = layouts.from_torch(M3AE, "it")
    assert same_bits(tensors, expected)
    assert manifest["conventions"]["image"]["name"] == "pretraining"
    assert manifest["left_out"] == ["decoder/Block_0/LayerNorm_0/scale", "image_mask_embedding"]
    convert.convert(tmp_path / "converted", tmp_path / "b.safetensors")
    assert same_bits(safetensors.numpy.load_file(tmp_path / "b.safetensors"), M3AE)


def plain(tree):
    return {"state": {"params": {"params": tree}}}


def test_a_pickle_without_its_classes_must_be_complete(tmp_path):
    tree = original_tree()
    del tree["encoder"]["Block_1"]["Attention_0"]["Dense_0"]["kernel"]
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(plain(tree)))
    with pytest.raises(UserError, match=r"1 missing .encoder/Block_1/Attention_0/Dense_0/kernel"):
        convert.convert(tmp_path / "model.pkl", tmp_path / "converted")


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


class Altered:
    """Pickles as an object of ``numpy.ndarray`` whose state is not one of an array."""

    def __reduce__(self):
        return np.ndarray, ((2,),), {"__class__": "x"}


def hostile(place, call):
    tree = original_tree()
    if place == "weights":
        tree["cls_token"] = call
        return plain(tree)
    return {**plain(tree), "variant": call}


@pytest.mark.parametrize("place", ["weights", "variant"])
@pytest.mark.parametrize(
    ("function", "words"),
    [
        (os.system, r"(posix|nt)\.system"),
        (eval, r"builtins\.eval"),
        (exec, r"builtins\.exec"),
        (__import__, r"builtins\.__import__"),
        (io.open, r"(io|_io)\.open"),
        (codecs.encode, "a codec"),
        (pickle.loads, r"_?pickle\.loads"),
        (np.fromfile, ""),
        (functools.partial, ""),
        (getattr, ""),
    ],
)
def test_no_code_of_a_pickle_runs(tmp_path, place, function, words):
    """The names of attacks are refused; others are not called, whatever they are."""
    marker = tmp_path / "ran"
    arguments = {
        os.system: (f"touch {marker}",),
        eval: (f"open({str(marker)!r}, 'w')",),
        exec: (f"open({str(marker)!r}, 'w')",),
        io.open: (str(marker), "w"),
        codecs.encode: ("x", "rot13"),
        getattr: ("x", "upper"),
        functools.partial: (getattr, "x"),
    }.get(function, (str(marker),))
    content = pickle.dumps(hostile(place, Call(function, *arguments)))
    if words:
        with pytest.raises(UserError, match=f"refused: it asks for {words}"):
            pickles.load(content, "it")
    else:
        loaded = pickles.load(content, "it")
        if place == "weights":
            with pytest.raises(UserError, match="it holds no array at cls_token"):
                pickles.weights(loaded, "it")
        else:
            assert isinstance(loaded["variant"], pickles.Inert)
            assert pickles.weights(loaded, "it")["cls_token"].shape == (1, 1, D)
    assert not marker.exists()


def test_a_pickle_cannot_alter_what_reads_it():
    """Two states set attributes of whatever object is at hand, if it lets itself."""
    before = dict(vars(pickles.Dtype))
    for content in (b"cnumpy\ndtype\n}(Vreal\nI0\nub.", b"cnumpy\ndtype\n(}}(Vreal\nI0\nutb."):
        with pytest.raises(UserError, match="not a readable pickle"):
            pickles.load(content, "it")
    assert dict(vars(pickles.Dtype)) == before


def test_the_attack_would_work_on_an_ordinary_unpickler(tmp_path):
    """Or the test before could not fail."""
    marker = tmp_path / "ran"
    content = pickle.dumps(hostile("variant", Call(os.system, f"touch {marker}")))
    pickle.loads(content)
    assert marker.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no pickle", "not a readable pickle"),
        (pickle.dumps(plain(original_tree()))[:-200], "not a readable pickle"),
        (pickle.dumps({"state": 3}), "no parameters under state.params"),
        (pickle.dumps([1, 2]), "no parameters under state.params"),
        (pickle.dumps(plain({"cls_token": np.array([None])})), "type 'O8', not of numbers"),
        (pickle.dumps(plain({"cls_token": np.array(["x"])})), "not of numbers"),
        (pickle.dumps(plain({"cls_token": Altered()})), "holds no array at cls_token|damaged"),
        (pickle.dumps(plain({"cls_token": "text"})), "holds no array at cls_token"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, words):
    (tmp_path / "model.pkl").write_bytes(content)
    with pytest.raises(UserError, match=words):
        files.read_tensors(tmp_path / "model.pkl")


# ---- init_from ----------------------------------------------------------------------------------


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
    found = convert.initialize_from(paths, state, said.append, conventions)
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
    assert said[1:] == ["not in that checkpoint in this shape, so newly initialised: head shared"]
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
