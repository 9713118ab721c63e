"""The benchmarks run and print what they promise; how fast anything is, is no test."""

import importlib.util
import json
import random

import numpy as np
import pytest
from scipy import stats
from test_resample import reference_box

from mla_jax.benchmark import recipes, timing, torch_input
from mla_jax.benchmark.__main__ import main
from mla_jax.data.transform import create_transform

INPUT = ["input", "--workers=1", "--batch_size=8", "--examples=8", "--seconds=0", "--rounds=1"]


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
    ],
)
def test_refusals(arguments, sentence, capsys):
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
