"""M3AE's own checkpoints: read as PyTorch's are, and no code of a pickle runs."""

import codecs
import functools
import io
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
from mla_jax.errors import UserError
from tests import transformer_reference as reference
from tests.transformer_reference import M3AE, same_bits

D = reference.WIDTH


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
        with pytest.raises(UserError, match=f"refused: it refers to {words}"):
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


ENDLESS = {}
ENDLESS["again"] = ENDLESS


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps(plain(ENDLESS)), "it contains itself"),
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
