"""Conversion: bit-exact both ways, strict, and the command line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from mla_jax import convert
from mla_jax.convert import files, layouts, resnet
from mla_jax.convert.__main__ import main
from mla_jax.encoders.resnet import ResNet18
from mla_jax.errors import UserError
from mla_jax.parity import formula
from mla_jax.runs.initial import initialize_from
from mla_jax.state import TrainState

D, C = 16, 6


def tower(prefix, channels, seed, width=D):
    """A state dict of one ResNet-18, as PyTorch would name and shape it."""
    return {
        prefix + row.torch: np.array(7, np.int64)
        if row.kind == "counter"
        else formula.uniform(row.shape, seed + i).astype(np.float32)
        for i, row in enumerate(resnet.rows(width, channels))
    }


def linear(name, inputs, seed):
    weight = formula.uniform((C, inputs), seed).astype(np.float32)
    return {f"{name}.weight": weight, f"{name}.bias": weight[:, 0].copy()}


HEADS = {
    "mla": linear("fusion_module.fc_out", D, 1),
    "concat": linear("fusion_module.fc_out", 2 * D, 2),
    "sum": linear("fusion_module.fc_x", D, 3) | linear("fusion_module.fc_y", D, 4),
    "qmf": linear("fusion_module.fc_out", 2 * D, 2)
    | linear("audio_fc", D, 5)
    | linear("visual_fc", D, 6),
    "qmf_sum": linear("fusion_module.fc_x", D, 3)
    | linear("fusion_module.fc_y", D, 4)
    | linear("audio_fc", D, 5)
    | linear("visual_fc", D, 6),
}
OUR_HEADS = {
    "mla": {"shared"},
    "concat": {"joint"},
    "sum": {"audio", "visual"},
    "qmf": {"audio", "visual", "joint"},
    "qmf_sum": {"audio", "visual", "sum_audio", "sum_visual"},
}


def classifier(method="mla", prefix="module."):
    tensors = tower("audio_net.", 1, 100) | tower("visual_net.", 3, 1000) | HEADS[method]
    return {prefix + name: value for name, value in tensors.items()}


def save(path, tensors):
    safetensors.numpy.save_file(tensors, path)
    return str(path)


def same_bits(a, b):
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes()
        for n in a
    )


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("method", HEADS)
def test_the_round_trip_is_bit_exact(tmp_path, method, prefix):
    tensors = classifier(method, prefix)
    source = save(tmp_path / "source.safetensors", tensors)
    back = str(tmp_path / "back.safetensors")
    assert main([f"--from={source}", f"--to={tmp_path / 'converted'}"]) == 0
    assert main([f"--from={tmp_path / 'converted'}", f"--to={back}"]) == 0
    result = safetensors.numpy.load_file(back)
    counters = {name for name in tensors if name.endswith("num_batches_tracked")}
    assert len(counters) == 40
    assert all(result[name] == 0 and result[name].dtype == np.int64 for name in counters)
    rest = {name: value for name, value in tensors.items() if name not in counters}
    assert same_bits({n: v for n, v in result.items() if n not in counters}, rest)
    heads = convert.load_initial(tmp_path / "converted")["params"]["head"]
    assert set(heads) == OUR_HEADS[method]


def test_shapes_and_names_are_those_of_the_encoder():
    tensors, _ = layouts.from_torch(classifier(), "it")
    tree = traverse_util.unflatten_dict(tensors, sep="/")
    for modality, channels in (("audio", 1), ("visual", 3)):
        image = jnp.zeros((1, 32, 32, channels))
        shapes = jax.eval_shape(ResNet18(feature_dim=D).init, jax.random.key(0), image)
        found = {
            "params": tree["params"]["encoder"][modality],
            "batch_stats": tree["batch_stats"][modality],
        }
        assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, shapes)


def renamed(tensors, old, new):
    return {new if name == old else name: value for name, value in tensors.items()}


def test_a_renamed_tensor_is_refused_with_both_names(tmp_path, capsys):
    old, new = "module.audio_net.layer2.0.conv1.weight", "module.audio_net.layer2.0.conv9.weight"
    source = save(tmp_path / "a.safetensors", renamed(classifier(), old, new))
    assert main([f"--from={source}", f"--to={tmp_path / 'converted'}"]) == 2
    said = capsys.readouterr().err
    assert "1 missing (audio_net.layer2.0.conv1.weight)" in said
    assert "1 unexpected (audio_net.layer2.0.conv9.weight)" in said
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"audio_net.bn1.bias": np.zeros(3, np.float32)}, r"bn1.bias \(3,\) instead"),
        (lambda t: t | {"audio_net.bn1.bias": np.zeros(2, np.float64)}, "bn1.bias float64"),
        (lambda t: t | {"extra": np.zeros(2, np.float32)}, r"1 unexpected \(extra\)"),
        (lambda t: {n: v for n, v in t.items() if "visual" not in n}, "100 missing"),
        (lambda t: {n: v for n, v in t.items() if "fc_out.bias" not in n}, "fc_out.bias"),
        (lambda t: {"encoder.weight": t["audio_net.bn1.bias"]}, "neither a classifier"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        layouts.from_torch(change(classifier(prefix="")), "it")


def torchvision(width=D):
    fc = linear("fc", width, 8)
    return tower("", 3, 1, width) | fc


def test_torchvision_needs_its_classifier_ignored_on_purpose():
    with pytest.raises(UserError, match=r"2 unexpected \(fc.bias, fc.weight\)"):
        layouts.from_torch(torchvision(), "it", ("visual",))
    with pytest.raises(UserError, match="one modality"):
        layouts.from_torch(torchvision(), "it", (), ("fc.*",))
    with pytest.raises(UserError, match=r"'head.\*'"):
        layouts.from_torch(torchvision(), "it", ("visual",), ("head.*",))
    tensors, _ = layouts.from_torch(torchvision(), "it", ("visual",), ("fc.*",))
    assert tensors["params/encoder/visual/conv1/kernel"].shape == (7, 7, 3, D // 8)


def test_torchvision_averaged_to_one_channel():
    tensors, manifest = layouts.from_torch(torchvision(), "it", ("audio",), ("fc.*",), True)
    kernel = tensors["params/encoder/audio/conv1/kernel"]
    expected = torchvision()["conv1.weight"].mean(1)[:, None]
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), expected)
    assert layouts.back_to_torch(tensors, manifest, "it")["conv1.weight"].shape[1] == 1


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"bad.safetensors is not a readable"):
        files.read_tensors(tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="no checkpoint at"):
        convert.convert(tmp_path / "none.safetensors", tmp_path / "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"it has no variables.safetensors"):
        convert.convert(tmp_path / "empty", tmp_path / "x.safetensors")


def state_like(tree, classes=C, modalities=("audio", "visual")):
    zeros = jax.tree.map(lambda x: jnp.zeros_like(x) - 1, tree)
    head = {"kernel": jnp.zeros((D, classes)), "bias": jnp.zeros((classes,))}
    encoders = {m: zeros["params"]["encoder"][m] for m in modalities}
    stats = {m: zeros["batch_stats"][m] for m in modalities}
    return TrainState({"encoder": encoders, "head": {"shared": head}}, stats, opt_state={})


@pytest.mark.parametrize("raw", [True, False])
def test_initialize_from(tmp_path, raw):
    source = save(tmp_path / "a.safetensors", classifier())
    convert.convert(source, tmp_path / "converted")
    tree = convert.load_initial(tmp_path / "converted")
    said = []
    path = source if raw else tmp_path / "converted"
    state = initialize_from(path, state_like(tree), said.append)
    jax.tree.map(np.testing.assert_array_equal, state.variables, tree)
    assert said == [f"initialised from {path}: encoder audio, encoder visual, head shared"]


def test_initialize_from_keeps_a_head_of_another_shape_and_says_so(tmp_path):
    convert.convert(save(tmp_path / "a.safetensors", classifier()), tmp_path / "converted")
    tree = convert.load_initial(tmp_path / "converted")
    said = []
    state = initialize_from(tmp_path / "converted", state_like(tree, 3), said.append)
    assert not state.params["head"]["shared"]["kernel"].any()
    assert "newly initialised: head shared" in said[1]


def test_initialize_from_refuses_what_does_not_match(tmp_path):
    convert.convert(save(tmp_path / "a.safetensors", classifier()), tmp_path / "converted")
    tree = convert.load_initial(tmp_path / "converted")
    with pytest.raises(UserError, match="encoder for visual, but this run has audio"):
        initialize_from(tmp_path / "converted", state_like(tree, modalities=("audio",)))
    state = state_like(tree)
    state.params["encoder"]["audio"]["conv1"]["kernel"] = jnp.zeros((7, 7, 2, D // 8))
    with pytest.raises(UserError, match=r"conv1/kernel \(7, 7, 1, 2\) instead of \(7, 7, 2, 2\)"):
        initialize_from(tmp_path / "converted", state)


def test_a_run_of_ours_goes_to_torch_names(tmp_path):
    tree = convert.load_initial(save(tmp_path / "a.safetensors", classifier()))
    convert.save_variables(tmp_path / "ours", state_like(tree).variables)
    convert.convert(tmp_path / "ours", tmp_path / "ours.safetensors")
    assert safetensors.numpy.load_file(tmp_path / "ours.safetensors").keys() == classifier().keys()


def test_pytorch_files(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = classifier()
    content = {n: torch.tensor(v) for n, v in tensors.items()}
    saved = {"saved_epoch": 3, "modulation": "Normal", "acc": 0.5, "model": content}
    for name, value in (("a.pth", saved), ("b.pth", content)):
        torch.save(value, tmp_path / name)
        assert same_bits(files.read_tensors(tmp_path / name), tensors)
    convert.convert(tmp_path / "a.pth", tmp_path / "converted")
    convert.convert(tmp_path / "converted", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert all(torch.equal(back[n], content[n]) for n in content if "num_batches" not in n)
    torch.save({"model": 3}, tmp_path / "c.pth")
    with pytest.raises(UserError, match="neither a state dict"):
        files.read_tensors(tmp_path / "c.pth")
