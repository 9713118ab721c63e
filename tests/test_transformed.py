"""A method behind a transform: composed everywhere, seen by training and evaluation alike."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax import train
from mla_jax.config import fields
from mla_jax.data import pipeline
from mla_jax.data.streams import Stream
from mla_jax.datasets import ArraySplit
from mla_jax.functional.optimizers import StepInfo
from mla_jax.methods.base import Phase, Stage
from mla_jax.program import build_program, with_preparation
from mla_jax.runs import metrics
from mla_jax.state import Prediction
from tests.conftest import BATCH, build_config, build_dataset


def shifted(batch, train):
    """Inputs moved by 1 in evaluation, by each example's draw in training."""
    if not train:
        return {m: x + 1 for m, x in batch["inputs"].items()}
    by = (jnp.asarray(batch["draw"]) % 5)[:, None]
    return {m: x * 2 - by for m, x in batch["inputs"].items()}


def test_training_and_prediction_see_what_the_transform_makes(make_program):
    dataset = build_dataset()
    plain = make_program(dataset).method
    behind = with_preparation(plain, shifted)
    batch = next(pipeline.training_batches(dataset.splits["train"], BATCH, 0))
    info = StepInfo(*map(np.int32, (0, 0, 6)))
    prepared = {t: {**batch, "inputs": shifted(batch, t)} for t in (True, False)}
    states = [
        jax.jit(plain.init)(jax.random.key(0), prepared[False]),
        jax.jit(behind.init)(jax.random.key(0), batch),
    ]
    for phase, other in zip(plain.stages[0].phases, behind.stages[0].phases, strict=True):
        assert phase.name == other.name
        untouched, _ = jax.jit(phase.update)(states[0], batch, info)
        states[0], expected = jax.jit(phase.update)(states[0], prepared[True], info)
        states[1], found = jax.jit(other.update)(states[1], batch, info)
        np.testing.assert_array_equal(found["example_loss"], expected["example_loss"])
        assert any(
            (np.asarray(x) != np.asarray(y)).any()
            for x, y in zip(
                jax.tree.leaves(untouched.params), jax.tree.leaves(states[0].params), strict=True
            )
        )
    jax.tree.map(np.testing.assert_array_equal, states[0], states[1])
    variables = states[0].variables
    expected = jax.jit(plain.predict)(variables, prepared[False]).unimodal
    np.testing.assert_array_equal(jax.jit(behind.predict)(variables, batch).unimodal, expected)
    assert (expected != jax.jit(plain.predict)(variables, batch).unimodal).any()


def test_a_visit_of_the_training_examples_is_in_evaluation_mode_and_compiled_once(make_program):
    seen, folds = [], []

    def accumulate(variables, carry, batch):
        seen.append(np.asarray(batch["inputs"]["a"]))
        assert batch["present"].shape == (3, 1)
        return carry + variables

    def on_epoch(state, epoch, reduce_training):
        return state + reduce_training(accumulate, 10, epoch)

    whole = {"inputs": {"a": np.zeros(3)}, "present": np.ones((3, 1), bool)}

    def reduce_training(accumulate, variables, carry):
        folds.append(accumulate)
        return accumulate(variables, carry, whole)

    method = make_program(build_dataset(("a",))).method
    stage = Stage("s", 1, (Phase("p", lambda *a: None),), on_epoch)
    wrapped = with_preparation(method._replace(stages=(stage,)), shifted).stages[0]
    assert (
        wrapped.on_epoch(100, 5, reduce_training) == 115
        and wrapped.on_epoch(0, 1, reduce_training) == 11
    )
    np.testing.assert_array_equal(seen, np.ones((2, 3)))
    assert folds[0] is folds[1] is not accumulate


def test_absent_inputs_are_zeros_and_methods_may_be_kept_from_knowing(make_program):
    """``absent="zeros"``: every modality of an example counts as present, but not padding."""
    seen = []

    def update(state, batch, info):
        seen.append(batch)
        return state, {}

    method = make_program(build_dataset()).method
    method = method._replace(stages=(Stage("s", 1, (Phase("p", update),)),))
    inputs = {"a": np.full((3, 2), np.nan), "b": np.full((3, 1, 2), 7)}
    present = np.array([[False, True], [True, False], [False, False]])
    logits = np.stack([np.eye(3), 2 * np.eye(3)]).astype(np.float32)
    for absent in ("skip", "zeros"):
        wrapped = with_preparation(method, None, absent)
        wrapped.stages[0].phases[0].update(None, {"inputs": inputs, "present": present}, None)
        np.testing.assert_array_equal(np.isnan(seen[-1]["inputs"]["a"]), [[0, 0], [1, 1], [0, 0]])
        np.testing.assert_array_equal(seen[-1]["inputs"]["b"][:, 0, 0], [7, 0, 0])
        weights = np.asarray(wrapped.weigh(Prediction(logits), present, ()))
        assert (weights[:2] > 0).all() == (absent == "zeros") and not weights[2].any()
        np.testing.assert_array_equal(wrapped.fuse(Prediction(logits), present, ())[2], 0)
    np.testing.assert_array_equal(seen[0]["present"], present)
    np.testing.assert_array_equal(seen[1]["present"], [[True] * 2] * 2 + [[False] * 2])


STREAMS = {
    "a": Stream("image", (8, 8, 1), crop=6, mean=(0.5,), std=(0.25,)),
    "b": Stream("vector", (6,), "float32", noise=0.1),
}


def picture_dataset():
    """Stripes one way or the other beside the vectors of ``build_dataset``; uint8 on disk."""
    dataset = build_dataset()
    rng = np.random.default_rng(0)
    splits = {}
    for name, split in dataset.splits.items():
        phase = np.add.outer(np.arange(8) * 0, np.arange(8))[None] * (
            1 + split.label[:, None, None]
        )
        images = 128 + 60 * np.sin(phase) + rng.normal(size=phase.shape) * 20
        pictures = np.clip(images, 0, 255).astype(np.uint8)[..., None]
        inputs = {"a": pictures, "b": split.inputs["b"]}
        splits[name] = ArraySplit(inputs, split.label, split.present)
    return dataset._replace(splits=splits, streams=STREAMS)


def run(path, devices=1, **overrides):
    config, dataset = build_config(**overrides), picture_dataset()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "load_dataset", lambda *arguments: dataset)
        result = train.train(
            config, path, devices=jax.devices()[:devices], say=lambda line: None
        ).result
    return result, metrics.read_lines(path / "metrics.jsonl")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return run(tmp_path_factory.mktemp("straight") / "run")


def test_an_augmented_run_resumes_bit_for_bit_on_any_loader(straight, tmp_path, monkeypatch):
    result, lines = straight
    original = pipeline.training_batches

    def cut(*arguments):
        yield from itertools.islice(original(*arguments), 8)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "training_batches", cut)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", **{"checkpoint.every_steps": 7})
    resumed, again = run(tmp_path / "cut", **{"loader.threads": 3})
    assert resumed["test"] == result["test"]
    assert [{**a, "time": 0} for a in again] == [{**a, "time": 0} for a in lines]


def test_four_devices_train_on_the_same_augmented_batches(straight, tmp_path):
    _, lines = straight
    _, others = run(tmp_path / "four", devices=4, epochs=1)
    for name, value in lines[0]["train"].items():
        if name.endswith("loss"):
            np.testing.assert_allclose(others[0]["train"][name], value, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "full"), [("float32", True), ("bfloat16", False)])
def test_float32_means_products_in_float32(dtype, full):
    """GPU and TPU multiply float32 matrices as TF32 or bfloat16 unless they are told otherwise."""
    images = np.zeros((96, 8, 8, 1), np.float32)
    dataset = build_dataset()
    split = dataset.splits["train"]._replace(inputs={"a": images, "b": images})
    dataset = dataset._replace(splits={"train": split})
    encoder = {"name": "conv2d", "widths": (4,)}
    config = fields.resolve(build_config(encoder=encoder, compute_dtype=dtype))
    program = build_program(config, dataset, jax.devices()[:1])
    batch, info = split.fetch(np.arange(BATCH)), StepInfo(0, 0, 6)
    state = jax.eval_shape(program.method.init, jax.random.key(0), batch)
    texts = [
        jax.jit(program.method.predict).lower(state.variables, batch).as_text(),
        *(jax.jit(p.update).lower(state, batch, info).as_text()
          for stage in program.method.stages for p in stage.phases),
    ]  # fmt: skip
    for text in texts:
        products = re.findall(r"stablehlo\.(?:dot_general|convolution).*", text)
        assert len(products) > 2
        precise = ["HIGHEST, HIGHEST" in line.replace("#stablehlo<precision ", "").replace(">", "")
                   for line in products]  # fmt: skip
        assert all(precise) == full, products
        assert any(precise), "the head's products are always"
