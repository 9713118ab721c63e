"""A run's weights as files: every tensor out and in again, and PyTorch's names and logits."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from mla_jax import convert, train
from mla_jax.config import fields, files
from mla_jax.convert.__main__ import main
from mla_jax.convert.files import read_metadata, read_tensors
from mla_jax.convert.names import flat
from mla_jax.data.dataset import DataSpec
from mla_jax.errors import UserError
from mla_jax.evaluate import outputs
from mla_jax.parity import formula
from mla_jax.program import build_program
from mla_jax.runs.initial import initialize_from
from mla_jax.runs.run import open_run
from mla_jax.runs.weights import save_weights
from tests.conftest import TINY, build_config, digits_program

D, C = 16, 3
SHAPES = {"sound": (33, 18, 1), "picture": (2, 32, 32, 3), "flow": (32, 32, 2), "vector": (6,)}
RESNET = {"name": "resnet18"}


class Weights:
    """What saving needs of a run, with weights by formula; nothing is compiled."""

    def __init__(
        self, method="mla", modalities=("sound", "picture"), encoder=RESNET, feature_dim=D
    ):
        shapes = {m: SHAPES[m] for m in modalities}
        names, examples = ("one", "two", "three"), {"train": 8, "test": 8}
        dtypes = dict.fromkeys(modalities, "float32")
        self.data = DataSpec("it", modalities, names, examples, True, shapes, dtypes, {}, {}, {})
        config = build_config(modalities, method, encoder=encoder)
        config.feature_dim = feature_dim
        self.config = fields.resolve(config)
        self.program = build_program(self.config, self.data, jax.devices()[:1])
        shapes = jax.eval_shape(self.program.method.init, jax.random.key(0), self.data.batch())
        named = {name: leaf.shape for name, leaf in _leaves(shapes.variables).items()}
        values = {  # heads small enough for logits of about 1
            name: value / 4 if name.startswith("params/head/") else value
            for name, value in formula.tensors(named, 5).items()
        }
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        self.fresh = zeros
        tree = _tree(values)
        self.state = zeros.replace(
            params=tree["params"], batch_stats=tree.get("batch_stats", zeros.batch_stats)
        )
        self.modalities, self.class_names = modalities, names
        self.identity, self.path = {"data": "fingerprint"}, "runs/it"

    def load(self, epoch):
        assert epoch == "chosen"
        return self.state

    def started_from(self, path):
        """The variables of a fresh run of this configuration with ``init_from=path``."""
        conventions = self.program.encoders.conventions
        return flat(initialize_from(path, self.fresh, lambda line: None, conventions).variables)


def _leaves(tree):
    return {"/".join(k.key for k in path): x for path, x in jax.tree.leaves_with_path(tree)}


def _tree(values):
    tree = {}
    for name, value in values.items():
        *folders, leaf = name.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[leaf] = value.astype(np.float32)
    return tree


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].tobytes() == value.tobytes(), name


def of_encoder(run, modality):
    begins = (f"params/encoder/{modality}/", f"batch_stats/{modality}/")
    return {n: v for n, v in flat(run.state.variables).items() if n.startswith(begins)}


# ---- Our own names ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mla", "dimml", "film"])
def test_safetensors_hold_every_tensor_of_any_run(tmp_path, method):
    run, path = Weights(method, encoder={"name": "mlp", "hidden": 4}), tmp_path / "w.safetensors"
    expected = flat(run.state.variables)
    assert save_weights(run, path) == len(expected)
    assert_same_bits(safetensors.numpy.load_file(path), expected)
    about = read_metadata(path)
    assert (about["method"], about["data"], about["dataset"]) == (method, "fingerprint", "it")
    assert json.loads(about["modalities"]) == ["sound", "picture"]
    assert_same_bits(run.started_from(path), expected)
    with pytest.raises(UserError, match="under our own names: name the run itself with --from"):
        convert.convert(path, tmp_path / "x")
    assert set(convert.load_initial(path)) == {n.split("/")[0] for n in expected}


def test_conventions_travel_with_the_weights(tmp_path):
    encoder = {"name": "m3ae_image", "size": "tiny"}
    made = {
        convention: Weights(
            "unimodal", ("picture",), {**encoder, "convention": convention}, feature_dim=64
        )
        for convention in ("released", "pretraining")
    }
    for how in ("w.safetensors", "directory"):
        save_weights(made["released"], tmp_path / how, encoder="picture")
        found = made["released"].started_from(tmp_path / how)
        own = of_encoder(made["released"], "picture")
        assert_same_bits({n: found[n] for n in own}, own)
        with pytest.raises(UserError, match="'picture' were made for patch_order=channel"):
            made["pretraining"].started_from(tmp_path / how)


# ---- PyTorch's names -------------------------------------------------------------------------

HEADS = {
    "mla": {"fusion_module.fc_out": D},
    "concat": {"fusion_module.fc_out": 2 * D},
    "modality_dropout": {"fusion_module.fc_out": 2 * D},
    "ogm_ge": {"fusion_module.fc_out": 2 * D},
    "sum": {"fusion_module.fc_x": D, "fusion_module.fc_y": D},
    "qmf": {"fusion_module.fc_out": 2 * D, "audio_fc": D, "visual_fc": D},
    "late_fusion": {"fusion_module.fc_out": 2 * D, "audio_fc": D, "visual_fc": D},
}
"""By method, the linear layers of the reference's classifier and what they take."""


def resnet_names():
    """Those of torchvision's ``resnet18``, its classifier left out."""
    norms, found = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"], []
    found += ["conv1.weight", *(f"bn1.{n}" for n in norms)]
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            for i in (1, 2):
                found += [f"{at}.conv{i}.weight", *(f"{at}.bn{i}.{n}" for n in norms)]
            if stage > 1 and block == 0:
                found += [f"{at}.downsample.0.weight", *(f"{at}.downsample.1.{n}" for n in norms)]
    return found


@pytest.mark.parametrize("method", HEADS)
def test_a_run_has_the_names_of_the_references_classifier(tmp_path, method):
    run = Weights(method)
    assert save_weights(run, tmp_path / "ours") == len(flat(run.state.variables))
    convert.convert(tmp_path / "ours", tmp_path / "theirs.safetensors")
    found = {n: v.shape for n, v in read_tensors(tmp_path / "theirs.safetensors").items()}
    towers = [f"{tower}.{n}" for tower in ("audio_net", "visual_net") for n in resnet_names()]
    heads = {f"{n}.weight": (C, width) for n, width in HEADS[method].items()}
    heads |= {f"{n}.bias": (C,) for n in HEADS[method]}
    assert found.keys() == {f"module.{n}" for n in (*towers, *heads)}
    assert {n: found[f"module.{n}"] for n in heads} == heads
    assert found["module.audio_net.conv1.weight"][1] == 1
    expected = flat(run.state.variables)
    for how in ("ours", "theirs.safetensors"):
        assert_same_bits(run.started_from(tmp_path / how), expected)


def test_the_order_of_the_modalities_swaps_nothing(tmp_path):
    run, other = Weights("concat", ("picture", "sound")), Weights("concat", ("sound", "picture"))
    save_weights(run, tmp_path / "ours")
    save_weights(run, tmp_path / "w.safetensors")
    convert.convert(tmp_path / "ours", tmp_path / "theirs.safetensors")
    theirs = read_tensors(tmp_path / "theirs.safetensors")["module.fusion_module.fc_out.weight"]
    kernel = run.state.params["head"]["joint"]["kernel"]  # the picture's block, then the sound's
    swapped = np.concatenate([kernel[D:], kernel[:D]])
    np.testing.assert_array_equal(theirs.T, swapped)
    for how in ("ours", "theirs.safetensors", "w.safetensors"):
        assert_same_bits(run.started_from(tmp_path / how), flat(run.state.variables))
        found = other.started_from(tmp_path / how)["params/head/joint/kernel"]
        np.testing.assert_array_equal(found, swapped)


def test_one_encoder_has_torchvisions_names(tmp_path):
    run = Weights("film")  # whatever the heads are
    assert save_weights(run, tmp_path / "picture", encoder="picture") == 100
    convert.convert(tmp_path / "picture", tmp_path / "theirs.safetensors")
    assert sorted(read_tensors(tmp_path / "theirs.safetensors")) == sorted(resnet_names())
    own = of_encoder(run, "picture")
    assert len(own) == 100
    for how in ("picture", "theirs.safetensors"):
        found = run.started_from(tmp_path / how)
        assert_same_bits({n: found[n] for n in own}, own)
        assert not any(v.any() for n, v in found.items() if n not in own)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"method": "film"}, "no head like film_picture"),
        ({"method": "dimml"}, "no head like fused"),
        (
            {"method": "unimodal", "modalities": ("picture",)},
            r"these 1 encoders: picture \(resnet18",
        ),
        ({"modalities": ("flow", "picture")}, "1 for audio and 3 for visual"),
        ({"modalities": ("sound", "picture", "flow")}, "these 3 encoders"),
        ({"encoder": {"name": "mlp", "hidden": 4}}, r"sound \(unknown\)"),
    ],
)
def test_what_has_no_twin_is_refused_and_told_where_to_go(tmp_path, run, words):
    run = Weights(**run)
    for path in (tmp_path / "x.pth", tmp_path / "x"):
        with pytest.raises(UserError, match=words) as error:
            save_weights(run, path)
        assert ".safetensors" in str(error.value) and "--encoder" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_encoder_without_twin_and_other_suffixes_are_refused(tmp_path):
    run = Weights(encoder={"name": "mlp", "hidden": 4})
    with pytest.raises(UserError, match="the encoder 'sound' has no counterpart in PyTorch"):
        save_weights(run, tmp_path / "x.pth", encoder="sound")
    with pytest.raises(UserError, match="unknown modality of this run"):
        save_weights(run, tmp_path / "x.pth", encoder="sounds")
    with pytest.raises(UserError, match=r"x.bin should be a .safetensors, .pth or .pt file"):
        save_weights(run, tmp_path / "x.bin")


# ---- A run of the digits ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of one epoch on the digits."""
    path = tmp_path_factory.mktemp("runs") / "mla"
    chosen = {"method": "mla", "modalities": "audio+text"}
    config = files.load_config(TINY, {"epochs": 1}, chosen)
    train.train(config, path, digits_program("mla")[0], jax.devices()[:1], lambda line: None)
    return path


def test_the_command(folder, tmp_path, capsys):
    target = tmp_path / "w.safetensors"
    assert main([f"--from={folder}", f"--to={target}", "--epoch=last"]) == 0
    run = open_run(folder)
    expected = flat(run.load("last").variables)
    assert f"{len(expected)} tensors" in capsys.readouterr().out
    assert_same_bits(safetensors.numpy.load_file(target), expected)
    assert read_metadata(target)["epoch"] == "last"
    for options, words in (
        ([f"--from={folder}", f"--to={tmp_path / 'x.pth'}"], "unknown"),
        ([f"--from={folder}", "--to=x.pth", "--ignore=fc.*"], "is a run"),
        ([f"--from={target}", "--to=x", "--epoch=last"], "is not a run"),
    ):
        assert main(options) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


@pytest.mark.parametrize("how", ["run", "safetensors"])
def test_a_run_starts_others(folder, tmp_path, how):
    source = folder
    if how == "safetensors":
        open_run(folder).save_weights(source := tmp_path / "w.safetensors")
    given = flat(open_run(folder).load().variables)
    said = []
    for method in ("mla", "concat"):
        program, dataset = digits_program(method)
        state = program.method.init(jax.random.key(9), dataset.spec().batch())
        started = initialize_from(source, state, said.append, program.encoders.conventions)
        found = flat(started.variables)
        alike = {n: v for n, v in given.items() if "/encoder/" in n or method == "mla"}
        assert_same_bits({n: found[n] for n in alike}, alike)
    assert said[-1].endswith("newly initialised: head joint")
    config = files.load_config(TINY, {"feature_dim": 8}, {"modalities": "audio+text"})
    narrow = build_program(fields.resolve(config), dataset, jax.devices()[:1])
    state = jax.eval_shape(narrow.method.init, jax.random.key(0), dataset.spec().batch())
    with pytest.raises(UserError, match=r"encoder 'audio',.*kernel \(16, 16\) instead of \(16, 8"):
        initialize_from(source, state, said.append, narrow.encoders.conventions)


# ---- With PyTorch ----------------------------------------------------------------------------


def torch_classifier(torch, method):
    """The two-ResNet classifier as the specification describes it, ``D`` wide."""
    from tests.test_parity_torch import Block  # skips where torch is missing

    def trunk(channels):
        widths = [D // 8, D // 8, D // 4, D // 2, D]
        net = torch.nn.Module()
        net.conv1 = torch.nn.Conv2d(channels, widths[0], 7, 2, 3, bias=False)
        net.bn1 = torch.nn.BatchNorm2d(widths[0])
        for i in range(1, 5):
            first = Block(widths[i - 1], widths[i], 2 if i > 1 else 1)
            setattr(net, f"layer{i}", torch.nn.Sequential(first, Block(widths[i], widths[i], 1)))
        return net

    model = torch.nn.Module()
    model.audio_net, model.visual_net = trunk(1), trunk(3)
    model.fusion_module = torch.nn.Module()
    for name, width in HEADS[method].items():
        *path, leaf = name.split(".")
        setattr(model.fusion_module if path else model, leaf, torch.nn.Linear(width, C))
    return model.eval()


def torch_features(torch, net, x):
    """``[B, ..., H, W, C]`` -> ``[B, D]``: the mean over frames and positions."""
    count = len(x)
    x = torch.tensor(x.reshape(-1, *x.shape[-3:])).permute(0, 3, 1, 2)
    x = torch.nn.functional.max_pool2d(torch.relu(net.bn1(net.conv1(x))), 3, 2, 1)
    for i in range(1, 5):
        x = getattr(net, f"layer{i}")(x)
    return x.reshape(count, -1, *x.shape[1:]).mean((1, 3, 4))


def torch_parts(torch, model, method, sound, picture):
    """Each modality's logits, as the reference computes them in testing."""
    heads = model.fusion_module
    a = torch_features(torch, model.audio_net, sound)
    v = torch_features(torch, model.visual_net, picture)
    if method == "mla":
        return heads.fc_out(a), heads.fc_out(v)
    if method == "sum":
        return heads.fc_x(a), heads.fc_y(v)
    if method == "qmf":
        return model.audio_fc(a), model.visual_fc(v)
    weight, half = heads.fc_out.weight, heads.fc_out.bias / 2
    return a @ weight[:, :D].T + half, v @ weight[:, D:].T + half


@pytest.mark.parametrize("method", ["mla", "concat", "sum", "qmf"])
def test_pytorch_gives_the_same_logits(tmp_path, method):
    torch = pytest.importorskip("torch")
    run = Weights(method)
    inputs = {m: formula.uniform((4, *SHAPES[m]), 7).astype(np.float32) for m in run.modalities}
    save_weights(run, tmp_path / "model.pth")
    saved = torch.load(tmp_path / "model.pth", weights_only=True)
    assert saved["modulation"] == ("QMF" if method == "qmf" else "Normal")
    assert saved["fusion"] == ("sum" if method == "sum" else "concat")
    model = torch_classifier(torch, method)
    named = {n.removeprefix("module."): tensor for n, tensor in saved["model"].items()}
    model.load_state_dict(named, strict=True)
    batch = {**run.data.batch(4), "inputs": inputs}
    ours = jax.jit(outputs(run.program.method))(run.state.variables, (), batch)
    with torch.no_grad():
        parts = torch_parts(torch, model, method, *inputs.values())
    parts = np.stack([part.numpy() for part in parts])
    np.testing.assert_allclose(ours.unimodal, parts, rtol=0, atol=1e-5)
    weights = 1 if ours.weights is None else np.asarray(ours.weights).T[:, :, None]
    np.testing.assert_allclose(ours.fused, (weights * parts).sum(0), rtol=0, atol=1e-5)
    assert_same_bits(run.started_from(tmp_path / "model.pth"), flat(run.state.variables))


def test_pytorch_takes_one_encoder(tmp_path):
    torch = pytest.importorskip("torch")
    run = Weights("film")
    save_weights(run, tmp_path / "picture.pth", encoder="picture")
    named = torch.load(tmp_path / "picture.pth", weights_only=True)
    assert list(named) == resnet_names()
    model = torch_classifier(torch, "mla")
    model.visual_net.load_state_dict(named, strict=True)
    found, own = run.started_from(tmp_path / "picture.pth"), of_encoder(run, "picture")
    assert_same_bits({n: found[n] for n in own}, own)
