"""StableHLO: what was exported says what the run says, in a process that has JAX alone."""

import importlib.util
import json
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from jax import export

from mla_jax import methods, train
from mla_jax.config import fields, files
from mla_jax.data.dataset import DataSpec
from mla_jax.data.streams import Stream
from mla_jax.errors import UserError
from mla_jax.export import main
from mla_jax.program import build_program
from mla_jax.runs import predictions, stablehlo
from mla_jax.runs.run import open_run
from tests.conftest import TINY, build_config, digits_program

ALONE = """
import json, sys
import jax, numpy as np
from jax import export
model = export.deserialize(bytearray(open(sys.argv[1] + ".stablehlo", "rb").read()))
about = json.load(open(sys.argv[1] + ".stablehlo.json"))
arrays = dict(np.load(sys.argv[2]))
present = arrays.pop("present")
assert list(about["inputs"]) == about["modalities"] == list(arrays), about
found = model.call(arrays, present)
assert {n: [str(d) for d in about["outputs"][n]["shape"][1:]] for n in found} == {
    n: [str(d) for d in x.shape[1:]] for n, x in found.items() if n != "unimodal_logits"
} | {"unimodal_logits": [str(about["outputs"]["unimodal_logits"]["shape"][1]), "10"]}
strangers = {m.split(".")[0] for m in sys.modules} & {"mla_jax", "flax", "orbax", "optax"}
assert not strangers, strangers
np.savez(sys.argv[3], **found)
"""
"""FILE INPUTS OUTPUTS, the first without its suffix."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of one epoch on the digits."""
    path = tmp_path_factory.mktemp("runs") / "mla"
    chosen = {"method": "mla", "modalities": "audio+text"}
    config = files.load_config(TINY, {"epochs": 1}, chosen)
    program = digits_program("mla")[0]
    train.train(config, path, program, jax.devices()[:1], lambda line: None)
    return path


def inputs_of(run, count):
    """The first test examples, of which some lack a modality, and what is there instead."""
    test = digits_program("mla")[1].splits["test"]
    arrays = {m: x[:count].copy() for m, x in test.inputs.items()}
    present = np.ones((count, 2), bool)
    present[::3, 0] = False
    present[1::3, 1] = False
    arrays["audio"][~present[:, 0]] = np.nan
    return arrays, present


def assert_same(found, expected, tolerance=1e-6):
    """The outputs of an exported model are those of ``Run.predict``."""
    np.testing.assert_allclose(found["logits"], expected.logits, atol=tolerance)
    np.testing.assert_allclose(found["probabilities"], expected.probabilities, atol=tolerance)
    for row, m in zip(found["unimodal_logits"], expected.modalities.values(), strict=True):
        np.testing.assert_allclose(row, m.logits, atol=tolerance)
    assert ("weights" in found) == (expected.weights is not None)
    if expected.weights is not None:
        np.testing.assert_allclose(found["weights"], expected.weights, atol=tolerance)


@pytest.mark.parametrize("batch", ["symbolic", "7"])
def test_a_process_with_jax_alone_gives_the_same(folder, tmp_path, batch, capsys):
    options = [f"--run={folder}", f"--to={tmp_path / 'model.stablehlo'}", f"--batch={batch}"]
    assert main(options) == 0
    assert "model.stablehlo" in capsys.readouterr().out
    run = open_run(folder)
    about = json.loads((tmp_path / "model.stablehlo.json").read_text())
    assert about["inputs"]["audio"]["shape"][0] == ("B" if batch == "symbolic" else 7)
    assert about["class_names"] == list(run.class_names)
    arrays, present = inputs_of(run, 7)
    np.savez(tmp_path / "inputs.npz", **arrays, present=present)
    names = [str(tmp_path / name) for name in ("model", "inputs.npz", "outputs.npz")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_DISABLE")}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # as this process has it (conftest.py)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *names],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    arrays["audio"] = np.nan_to_num(arrays["audio"])
    assert_same(dict(np.load(names[2])), run.predict(arrays, present))


class Untrained:
    """What exporting needs of a run, with first weights."""

    def __init__(self, program, data, config=None, seed=0):
        self.program, self.data, self.config, self.path = program, data, config, "it"
        self.modalities = program.method.modalities
        self.state = program.method.init(jax.random.key(seed), data.batch())

    def load(self, epoch):
        assert epoch == "chosen"
        return self.state

    def predict(self, arrays, present):
        split = predictions.split_of_arrays(self.data, arrays, present)
        batch = split.fetch(np.arange(len(present)))
        compute = jax.jit(stablehlo.outputs(self.program.method))
        part = compute(self.state.variables, self.state.method_state, batch)
        return predictions.collect([part], self.data, split.present)


@pytest.mark.parametrize("method", methods.REGISTRY)
def test_every_method_takes_any_batch(method, make_dataset, make_program):
    modalities = ("a",) if method == "unimodal" else ("a", "b")
    dataset = make_dataset(modalities, missing=0.3)
    linear = {"name": "features", "projection": "linear"}
    run = Untrained(make_program(dataset, method=method, encoder=linear), dataset.spec())
    exported = stablehlo.lower(run)
    if importlib.util.find_spec("flatbuffers"):
        exported = export.deserialize(bytearray(stablehlo.serialize(exported)))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    for count in (1, 9):
        there = dataset.splits["test"].present.any(1)
        batch = dataset.splits["test"].fetch(np.flatnonzero(there)[:count])
        found = exported.call(batch["inputs"], batch["present"])
        expected = run.predict(batch["inputs"], batch["present"])
        shown = [i for i, m in enumerate(modalities) if m in expected.modalities]
        found["unimodal_logits"] = found["unimodal_logits"][np.array(shown)]
        assert_same(found, expected)


ENCODERS = {
    "conv1d": ((9, 4), "float32", {"widths": (4,)}),
    "conv2d": ((8, 8, 1), "float32", {"widths": (4,)}),
    "resnet18": ((32, 32, 3), "float32", {}),
    "m3ae_image": ((32, 32, 3), "uint8", {"size": "tiny"}),
    "m3ae_text": ((6,), "int32", {"size": "tiny", "vocabulary": 20}),
    "cavmae_audio": ((32, 128), "float32", {"size": "tiny"}),
    "cavmae_visual": ((2, 224, 224, 3), "uint8", {"size": "tiny"}),
}
"""``{encoder: (shape, type, fields)}``."""


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_takes_any_batch(encoder):
    shape, dtype, options = ENCODERS[encoder]
    spec = spec_of({"x": shape}, {"x": dtype})
    config = build_config(("x",), "unimodal", encoder={"name": encoder, **options})
    config.feature_dim = 64
    run = types.SimpleNamespace(program=build_program(fields.resolve(config), spec), data=spec)
    run.modalities, run.path = ("x",), "it"
    shapes = jax.eval_shape(run.program.method.init, jax.random.key(0), spec.batch())
    run.load = lambda epoch: jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    results = jax.tree.unflatten((lowered := stablehlo.lower(run)).out_tree, lowered.out_avals)
    assert str(results["logits"].shape) == "(B, 3)"


def spec_of(shapes, dtypes, streams=None):
    names, examples = ("one", "two", "three"), {"train": 8, "test": 8}
    streams = streams or {}
    return DataSpec("it", tuple(shapes), names, examples, True, shapes, dtypes, streams, {}, {})


def test_the_transform_is_inside():
    streams = {
        # A window is not resized: where a resized grey level lies halfway between two whole ones,
        # rounding may go either way in two programs.
        "picture": Stream(
            "clip", (2, 20, 24, 3), crop=16, test_crop="window", mean=(0.5,) * 3, std=(0.2,) * 3
        ),
        "sound": Stream("spectrogram", (12, 8, 1), "float16", noise=0.1, noise_kind="fixed"),
    }
    shapes = {m: stream.shape for m, stream in streams.items()}
    spec = spec_of(shapes, {m: stream.dtype for m, stream in streams.items()}, streams)
    config = fields.resolve(build_config(("picture", "sound"), "concat"))
    run = Untrained(build_program(config, spec, jax.devices()[:1]), spec, config)
    rng = np.random.default_rng(0)
    arrays = {
        "picture": rng.integers(0, 256, (5, 2, 20, 24, 3), np.uint8),
        "sound": rng.normal(size=(5, 12, 8, 1)).astype(np.float16),
    }
    present = np.array([[1, 1], [1, 0], [0, 1], [1, 1], [1, 1]], bool)
    found = stablehlo.lower(run).call(arrays, present)
    assert_same(found, run.predict(arrays, present), 1e-5)


def test_what_cannot_be_exported_is_said_in_a_sentence(folder, tmp_path, capsys, monkeypatch):
    def said(*options):
        assert main([f"--run={folder}", *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    target = f"--to={tmp_path / 'x.stablehlo'}"
    assert "batch=0 should be a number of at least 1" in said(target, "--batch=0")
    assert "should end in .stablehlo" in said(f"--to={tmp_path / 'x.bin'}")
    assert main([f"--run={tmp_path}", target]) == 2
    assert "holds no run" in capsys.readouterr().err

    def fixed(method):
        return lambda variables, state, batch: np.zeros(int(batch["valid"].shape[0]))

    monkeypatch.setattr(stablehlo, "outputs", fixed)
    assert "allows no symbolic batch" in (line := said(target)) and "--batch=N" in line
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="batch=many"):
        open_run(folder).export(tmp_path / "x.stablehlo", batch="many")
