"""The benchmarks run and print what they promise; how fast anything is, is no test."""

import importlib.util
import json
import random

import numpy as np
import pytest
from scipy import stats
from test_resample import reference_box

from mla_jax.benchmark import against, contender, our_step, recipes, timing, torch_input
from mla_jax.benchmark.__main__ import main
from mla_jax.data.transform import create_transform
from mla_jax.errors import UserError

INPUT = ["input", "--workers=1", "--batch_size=8", "--examples=8", "--seconds=0", "--rounds=1"]

BESIDE = ["step", "--config=configs/kinetics_sounds.py:synthetic", "--against=torch"]
SPEC = contender.Spec(
    "mla", "configs/kinetics_sounds.py:synthetic", 2,
    {"audio": (32, 32, 1), "video": (1, 32, 32, 3)}, 31,
    {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 1e-4}, 1,
)  # fmt: skip


@pytest.fixture
def no_torch(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "torch" else found(n))


def test_input_table_without_torch(no_torch, capsys):
    assert main([*INPUT, "--recipe=spectrogram"]) == 0
    header, _, row, *_ = capsys.readouterr().out.splitlines()
    assert header.startswith("| recipe | workers | loaded | threads | processes | torch | ratio |")
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0].startswith("spectrogram (") and cells[-2:] == ["not installed", "–"]
    assert all(float(cell) > 0 for cell in cells[1:5])


def test_step_table(capsys):
    command = ["step", "--config=tests/configs/tiny.py", "--methods=mla", "--rounds=2"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "step" and found["machine"]["cores"] >= 1
    (row,) = found["rows"]
    assert (row["method"], row["phases"], row["ratio"]) == ("mla", 2, 1)
    assert row["milliseconds"] > 0 and row["compile_seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*INPUT, "--recipe=imge"], "unknown recipe 'imge': did you mean 'image'?"),
        ([*INPUT, "--workers=0"], "--workers=0 --batch_size=8 must be at least 1 each"),
        ([*INPUT, "--rounds=0"], "--rounds must be at least 1"),
        (["step", "--config=tests/configs/tiny.py", "--methods=mlaa"], "did you mean 'mla'?"),
        (["step", "--config=nowhere.py"], "there is no configuration file nowhere.py"),
        ([*BESIDE, "--rounds=6"], "--rounds=6 is too few beside PyTorch: at least 7"),
        ([*BESIDE, "--steps=0"], "--steps must be at least 1"),
        ([*BESIDE, "--cores=2,none"], "--cores=2,none must be numbers from 1 to"),
        ([*BESIDE, "--inputs=audio=8x,video=3x8x8x3"], "--inputs has 'audio=8x': write audio=256"),
        ([*BESIDE, "--inputs=vidoe=3x8x8x3"], "--inputs has 'vidoe', and the modalities are"),
        ([*BESIDE, "--methods=concat"], "--against=torch has MLA alone"),
        ([*BESIDE, "--methods=mla:schedul=fused"], "did you mean 'schedule'?"),
        ([*BESIDE, "--inputs=audio=8x8"], "--inputs gives 'audio' 2 axes, and its examples have 3"),
        ([*BESIDE, "--methods=mla,mla:schedule=fusd"], "did you mean 'fused'?"),
        ([*BESIDE, "--reference=nowhere"], "--reference should be a clone of Cecile-hi/"),
        (
            [*BESIDE[:1], "--config=configs/kinetics_sounds.py:synthetic", "--steps=2"],
            "--steps is for --against=torch: give both or neither",
        ),
        (
            ["memory", "--config=configs/digits.py"],
            "has ResNet-18 alone, and encoders.image is 'conv2d': choose",
        ),
    ],
)
def test_refusals(arguments, sentence, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: n if n == "torch" else found(n))
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_contenders_take_turns():
    order = []
    measures = {n: (lambda n=n: order.append(n) or float(len(order))) for n in "ab"}
    assert timing.in_turns(measures, 3) == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert order == list("ababab")
    assert timing.medians({"a": [1, 9, 2]}) == {"a": 2}


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_both_sides_read_the_same_files_to_the_same_sizes(recipe, tmp_path):
    if recipe in ("image", "clip"):
        pytest.importorskip("PIL")
    paths = recipes.write_files(recipe, tmp_path, 2)
    stream = recipes.RECIPES[recipe]
    batch = recipes.FileSplit(recipe, paths).fetch(np.arange(2))
    stored = batch["inputs"][recipe]
    assert stored.shape == (2, *stream.shape) and stored.dtype == stream.dtype
    ours = create_transform({recipe: stream}, (recipe,))(batch, False)[recipe]
    random.seed(0)
    if recipe == "text":
        np.testing.assert_array_equal(ours, stored)
    elif recipe == "spectrogram":
        theirs = torch_input.spectrogram(paths[1][0])
        kept = theirs != 0
        assert 0.5 < kept.mean() < 1
        np.testing.assert_allclose(theirs[kept], np.asarray(ours)[1, ..., 0][kept], atol=1e-5)
    else:
        theirs = np.stack([torch_input.picture(path, False) for path in paths[1]])
        assert theirs[0].shape == (3, 224, 224) and theirs.dtype == np.float32
        ours = np.asarray(ours)[1].reshape(len(theirs), 224, 224, 3)
        for a, b in zip(theirs, ours, strict=True):  # the same picture, cut elsewhere
            assert np.abs(a.mean((1, 2)) - b.mean((0, 1))).max() < 1


def test_the_crops_of_the_torch_side_follow_the_same_law():
    rng = random.Random(0)
    expected = np.array([reference_box(rng, 240, 320) for _ in range(4000)])
    random.seed(1)
    found = np.array([torch_input.crop_box(240, 320) for _ in range(4000)])
    left, top, right, bottom = found.T
    for mine, theirs in zip((top, left, bottom - top, right - left), expected.T, strict=True):
        assert stats.ks_2samp(mine, theirs).pvalue > 1e-3


# ---- Beside PyTorch -----------------------------------------------------------------------------


def test_beside_torch(capsys, monkeypatch):
    """Both sides train; the same table as JSON, and the memory."""
    pytest.importorskip("torch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    small = ["--inputs=audio=32x32x1,video=1x32x32x3", "--batch_size=2"]
    assert main([*BESIDE, *small, "--methods=mla:schedule=fused", "--rounds=7", "--cores=1"]) == 0
    _, _, torch, ours, *_ = capsys.readouterr().out.splitlines()
    assert torch.startswith("| torch (torch ") and "| 1 | float32 |" in torch
    assert ours.startswith("| mla:schedule=fused (jax ")
    memory = ["memory", *BESIDE[1:2], *small, "--json"]
    assert main(memory) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["contender"] for row in found["rows"]] == ["torch", "mla"]
    for row in found["rows"]:
        assert row["memory"]["process"] > 1e8 and row["memory"]["device"] is None
    assert found["inputs"] == {"audio": [32, 32, 1], "video": [1, 32, 32, 3]}


def test_without_torch_there_is_nothing_beside(no_torch, capsys):
    assert main(BESIDE) == 2
    assert "PyTorch is not installed: pip install torch" in capsys.readouterr().err


def test_a_contender_that_ends():
    with (
        pytest.raises(UserError, match=r"'mla' ended .*status 1; .*no configuration file nowher"),
        against.started(SPEC._replace(config="nowhere.py")),
    ):
        pass


def test_contenders_on_two_devices():
    running = [against.Running(SPEC, None, None, {"device": name}) for name in ("cpu", "H200")]
    with pytest.raises(UserError, match=r"has the device cpu, and 'mla' H200: install"):
        against.check_devices(running)


def test_what_pytorch_does_not_mirror(tmp_path):
    config = tmp_path / "adam.py"
    config.write_text(
        "from mla_jax.config import files\n"
        "def get_config(argument=None):\n"
        "    config = files.load_config('configs/kinetics_sounds.py:synthetic')\n"
        "    config.optimizer.name = 'adam'\n"
        "    return config\n"
    )
    with pytest.raises(UserError, match=r"has optimizer.name=sgd alone, and the configuration has"):
        against.spec_of(str(config), ["mla"], {}, 0)


def test_ratios_are_of_the_same_round():
    first, second = (against.Running(SPEC._replace(name=name), None, None) for name in "ab")
    first.wall, second.wall = [1.0, 2.0, 4.0], [3.0, 4.0, 8.0]
    first.cpu = second.cpu = [1.0, 1.0, 1.0]
    row = against.row_of(second, first, {"process": 1, "device": None})
    assert (row["wall_ratio"], row["cpu_ratio"]) == (2, 1)
    assert row["wall"] == {"minimum": 3, "median": 4} and row["examples_per_second"] == 0.5
    row |= {"device": "NVIDIA H200", "version": "jax 1", "dtype": "bfloat16", "first": 2.0}
    (printed,) = against.cells({"rows": [row], "flops": 4 * 989.4e12 / 8})
    assert printed[3:] == [
        "3000.0 / 4000.0",
        "1000.0 / 1000.0",
        "2.00",
        "1.00",
        "0.5",
        "12.5%",
        "2",
    ]
    assert against.peak_of("cpu") is None


def taps(size: int, kernel: int, stride: int) -> int:
    """How many products a convolution has along one axis, padding left out."""
    starts = range(-(kernel // 2), size - kernel + kernel // 2 + 1, stride)
    return sum(sum(0 <= start + k < size for k in range(kernel)) for start in starts)


def resnet_flops(channels: int, size: int) -> tuple[int, int]:
    """Of all convolutions of a ResNet-18 on a square, forwards, and of the first one."""
    found, first = 0, 2 * channels * 64 * taps(size, 7, 2) ** 2
    size, before = size // 4, 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        found += 2 * before * width * taps(size, 3, stride) ** 2
        if stride == 2:
            found += 2 * before * width * taps(size, 1, stride) ** 2
            size //= 2
        found += 3 * 2 * width * width * taps(size, 3, 1) ** 2
        before = width
    return found + first, first


def test_the_work_is_counted_before_xla_changes_it():
    """Convolutions forwards and twice backwards, but for the gradient of the data; little else."""
    expected = 0
    for channels in (1, 3):
        every, first = resnet_flops(channels, 32)
        expected += (3 * every - first) * SPEC.batch_size
    parameters = 22.3e6
    found = our_step.flops(SPEC)
    assert expected < found < expected + 20 * parameters
