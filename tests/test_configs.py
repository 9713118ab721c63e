"""Every file of ``configs/``: all methods on its small form, the real form traced and counted.

Training a step of every method on every file would take minutes of compilation.  So every method
trains on ``THOROUGH``, ``SAMPLE`` trains on every file, and the others are traced on ``TRACED``.
"""

import functools
import itertools
import pathlib

import jax
import numpy as np
import pytest

from mla_jax import methods, train
from mla_jax.config import fields, files
from mla_jax.data.transform import create_transform
from mla_jax.datasets import load_dataset
from mla_jax.errors import UserError
from mla_jax.evaluate import outputs
from mla_jax.functional.optimizers import StepInfo
from mla_jax.prepare.__main__ import main as prepare
from mla_jax.program import build_program

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
EMBEDDED = ("digits", "mfeat")
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in EMBEDDED)
OWN_DATA = ("arrays", "folder")
THOROUGH = ("iemocap",)
"""Of three modalities; ``test_digits_runs`` trains every method on two, with small encoders."""
SAMPLE = ("concat", "mla")
TRACED = ("folder", "food101")
"""One file of each kind of encoders, beside ``THOROUGH``."""
HASTE = {"xla_backend_optimization_level": 0}
BATCH = 4

PARAMETERS = {
    "arrays": 8_194,
    "ave": 22_361_116,
    "cremad": 22_349_830,
    "folder": 8_194,
    "food101": 194_224_229,
    "iemocap": 279_796_996,
    "kinetics_sounds": 22_362_655,
    "modelnet40": 22_373_544,
    "mvsa": 194_148_867,
    "ucf101": 22_401_701,
}
"""Of MLA in the real form: the encoders of docs/encoders.md and one head ``(D + 1) C``."""


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """Twelve examples of two vectors, as a folder that was prepared and as arrays."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    lines = ["id,label,split,a:vector,b:vector"]
    for i in range(12):
        part = ("train", "train", "test")[i % 3]
        for modality in "ab":
            np.save(folder / f"{i}{modality}.npy", rng.normal(size=6).astype(np.float32))
        lines.append(f"{i},{'xyz'[i % 2]},{part},{i}a.npy,{i}b.npy")
    (folder / "examples.csv").write_text("\n".join(lines) + "\n")
    flags = ["--dataset=folder", f"--raw={folder}", f"--data_dir={folder}/data", "--workers=1"]
    assert prepare(flags) == 0
    for part in ("train", "test"):
        arrays = {m: rng.normal(size=(8, 6)).astype(np.float32) for m in "ab"}
        np.savez(folder / f"{part}.npz", label=np.arange(8) % 2, **arrays)
    return folder


def load(name: str, folder: pathlib.Path, *words: str):
    """The configuration of a file with arguments, on its synthetic data or on ``own_data``."""
    own = name in OWN_DATA
    words = (*words, *(("encoders=features",) if own else ("synthetic",)))
    if own and not any(word.startswith("modalities=") for word in words):
        words = (*words, "modalities=a+b")
    config = files.load_config(f"{FOLDER / name}.py:{','.join(words)}")
    if own:
        config.dataset.data_dir = str(folder / "data")
        config.dataset.path = str(folder) if name == "arrays" else ""
    config.batch_size = BATCH
    config.compute_dtype = "float32"
    return config


@functools.cache
def transformed_batch(name: str, folder: pathlib.Path):
    """The data set of ``runlocal`` and a training batch behind its transform, which all methods
    share: it takes longer to compile than most of them."""
    config = load(name, folder, "runlocal")
    dataset = load_dataset(config.dataset, config.modalities)
    batch = dataset.splits["train"].fetch(np.arange(BATCH))
    batch["draw"] = np.arange(BATCH, dtype=np.uint32)
    transform = create_transform(dataset.streams, dataset.modalities)
    batch["inputs"] = jax.jit(lambda b: transform(b, True), compiler_options=HASTE)(batch)
    return dataset._replace(streams={}), batch


def build(name: str, method: str, folder: pathlib.Path):
    """A method on the small form of a file, and a batch of its modalities."""
    dataset, batch = transformed_batch(name, folder)
    count = 1 if method == "unimodal" else len(dataset.modalities)
    modalities = dataset.modalities[:count]
    words = (f"method={method}", f"modalities={'+'.join(modalities)}", "runlocal")
    config = load(name, folder, *words)
    fields.override(config, SMALL.get(method, {}))
    config = fields.resolve(config)
    dataset = dataset._replace(modalities=modalities)
    method = build_program(config, dataset, jax.devices()[:1]).method
    inputs = {m: batch["inputs"][m] for m in modalities}
    return method, {**batch, "inputs": inputs, "present": batch["present"][:, :count]}


SMALL = {name: {"method.projections": 2} for name in ("dcca", "dccae")}
"""Correlations of the usual ten codes need more than ``BATCH`` examples; the five blocks of MMIN
compile for long."""
SMALL |= {name: {"method.blocks": 2} for name in ("mmin", "if_mmin")}


def trained(name: str, method: str) -> bool:
    return name in THOROUGH or method in SAMPLE


@pytest.mark.parametrize(
    ("name", "method"), [p for p in itertools.product(NAMES, methods.REGISTRY) if trained(*p)]
)
def test_two_steps_of_every_phase(name, method, own_data):
    method, batch = build(name, method, own_data)
    state = method.init(jax.random.key(0), batch)
    for stage in method.stages:
        for phase in stage.phases:
            update = jax.jit(phase.update, compiler_options=HASTE)
            for step in range(2):
                state, metrics = update(state, batch, StepInfo(np.int32(0), np.int32(step), 2))
                assert np.isfinite(metrics["loss"])
    compute = jax.jit(outputs(method), compiler_options=HASTE)
    found = compute(state.variables, state.method_state, batch)
    assert np.isfinite(found.unimodal).all()
    assert found.fused.shape == (BATCH, method.classes) and np.isfinite(found.fused).all()


def trace(method, batch, phases=None):
    """Traces what a run would compile, its first ``phases`` or all: the state, the fused logits."""
    state = jax.eval_shape(lambda: method.init(jax.random.key(0), batch))
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for phase in [phase for stage in method.stages for phase in stage.phases][:phases]:
        new, _ = jax.eval_shape(phase.update, state, batch, StepInfo(0, 0, 2))
        assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == shapes
    found = jax.eval_shape(outputs(method), state.variables, state.method_state, batch)
    return state, found.fused


def test_two_files_stand_for_the_small_forms_of_all(own_data):
    """A method sees the features of its encoders: which those are is what files differ in."""
    kinds = {name: kind_of(load(name, own_data, "runlocal")) for name in NAMES}
    assert set(kinds.values()) == {kinds[name] for name in (*TRACED, *THOROUGH)}


def kind_of(config):
    return tuple(sorted(encoder.name for encoder in config.encoders.values()))


@pytest.mark.parametrize("name", TRACED)
def test_the_other_methods_are_traced(name, own_data):
    others = [method for method in methods.REGISTRY if not trained(name, method)]
    assert len(others) > 5
    for other in others:
        method, batch = build(name, other, own_data)
        _, fused = trace(method, batch)
        assert fused.shape == (BATCH, method.classes)


@pytest.mark.parametrize("name", NAMES)
def test_the_real_form_is_traced_and_counted(name, own_data):
    """Encoders, crops and sizes of the paper, behind the transform."""
    config = fields.resolve(load(name, own_data))
    dataset = load_dataset(config.dataset, config.modalities)
    program = build_program(config, dataset, jax.devices()[:1])
    batch = dataset.splits["train"].fetch(np.arange(BATCH))
    state, fused = trace(program.method, {**batch, "draw": np.arange(BATCH, dtype=np.uint32)}, 1)
    assert fused.shape == (BATCH, dataset.classes)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == PARAMETERS[name]


def test_mfeat_has_six_modalities_and_no_small_form():
    config = files.load_config(f"{FOLDER / 'mfeat'}.py:missing=0.5,modalities=zernike+pixel")
    assert config.modalities == ("zernike", "pixel")
    assert config.missing.to_dict() | {"rule": "rate", "train": 0.5, "test": 0.5} == (
        config.missing.to_dict()
    )
    config = fields.resolve(files.load_config(f"{FOLDER / 'mfeat'}.py"))
    dataset = load_dataset(config.dataset, config.modalities)
    method = build_program(config, dataset, jax.devices()[:1]).method
    state, fused = trace(method, dataset.splits["train"].fetch(np.arange(BATCH)))
    assert fused.shape == (BATCH, 10) and len(config.modalities) == 6
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == 67_530
    counts = {name: np.bincount(split.label).tolist() for name, split in dataset.splits.items()}
    assert counts == {"train": [120] * 10, "validation": [40] * 10, "test": [40] * 10}
    train = dataset.splits["train"].inputs
    for m in config.modalities:
        deviation = train[m].std(0)
        np.testing.assert_allclose(train[m].mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(deviation[deviation > 0], 1, rtol=1e-3)
    with pytest.raises(UserError, match=r"embedded data is small already"):
        files.load_config(f"{FOLDER / 'mfeat'}.py:runlocal")


def test_digits_takes_the_shared_arguments_that_apply_to_it():
    words = "method=qmf,fidelity=released,modalities=text,protocol=paper,seed=3,epochs=4"
    config = files.load_config(f"{FOLDER / 'digits'}.py:{words}")
    assert (config.method.name, config.method.fidelity) == ("qmf", "released")
    assert (config.modalities, config.protocol) == (("text",), "paper")
    assert (config.seed, config.epochs) == (3, 4)
    assert files.load_config(f"{FOLDER / 'digits'}.py").epochs == 15
    for word in ("synthetic", "runlocal", "split=mla"):
        with pytest.raises(UserError, match=f"'{word[:5]}.*embedded data (has|is)"):
            files.load_config(f"{FOLDER / 'digits'}.py:{word}")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("modalities=a+b+c,encoders=resnet18+features", "names 2 encoders for 3 modalities"),
        ("modalities=a+", "name the modalities"),
        ("modalites=a", "did you mean 'modalities'"),
    ],
)
def test_wrong_arguments(words, sentence):
    with pytest.raises(UserError, match=sentence):
        files.load_config(f"{FOLDER / 'folder'}.py:{words}")


def test_mla_keeps_the_weak_modality_that_joint_training_starves(tmp_path, optimized):
    """Synthetic Kinetics-Sounds in its small form, whole runs; 0.40 apart."""
    video = {}
    for method in ("concat", "mla"):
        config = files.load_config(
            f"{FOLDER / 'kinetics_sounds'}.py:synthetic,runlocal,method={method}"
        )
        config.checkpoint.every_epochs = 0
        config.epochs = config.evaluation.every_epochs = 5
        path = tmp_path / method
        result = train.train(config, path, devices=jax.devices()[:1], say=lambda line: None).result
        assert result["dataset"] == "kinetics_sounds_synthetic"
        assert result["test"]["audio"] > 0.6, "the strong modality is learnt by both"
        video[method] = result["test"]["video"]
    assert video["mla"] > video["concat"] + 0.15, video
