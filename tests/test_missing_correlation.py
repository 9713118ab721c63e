"""CCA, deep CCA and DCCAE, as methods: what they compute, fill, train and refuse."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import svm

from mla_jax import methods
from mla_jax.config import fields
from mla_jax.errors import UserError
from mla_jax.evaluate import TrainingReduction
from mla_jax.functional.optimizers import StepInfo
from mla_jax.program import build_program
from tests import conftest
from tests.conftest import BATCH, CLASSES, FEATURE_DIM, FEATURES, build_config, build_dataset
from tests.test_correlation import signed, transcribed

METHODS = ("cca", "dcca", "dccae")
DEEP = ("dcca", "dccae")
THREE = ("a", "b", "c")


class Case:
    """A method on synthetic data, trained to its end where ``epochs`` says so."""

    def __init__(self, name, modalities=("a", "b"), missing=0.0, epochs=2, **options):
        self.dataset = options.pop("dataset", None) or build_dataset(modalities, missing=missing)
        size = options.pop("batch_size", BATCH)
        config = fields.resolve(build_config(modalities, name, batch_size=size, **options))
        self.program = build_program(config, self.dataset, jax.devices()[:1])
        self.method, self.split = self.program.method, self.dataset.splits["train"]
        self.state, self.size = conftest.fresh_state(self.program, self.dataset), size
        self.reduce = TrainingReduction(self.split, size, self.program.placement)
        self.predict = jax.jit(self.method.predict)
        if epochs:
            self.train(epochs)

    def train(self, epochs):
        for stage in self.method.stages:
            updates = [jax.jit(phase.update) for phase in stage.phases]
            for epoch in range(epochs if updates else 1):
                self.state = stage.on_epoch(self.state, epoch, self.reduce)
                for i, update in itertools.product(range(96 // self.size), updates):
                    batch = self.split.fetch(np.arange(self.size) + self.size * i)
                    self.state, _ = update(self.state, batch, StepInfo(epoch, i, 96 // self.size))

    def logits(self, batch):
        prediction = self.predict(self.state.variables, batch)
        return np.asarray(prediction.joint), np.asarray(prediction.unimodal)

    @property
    def test(self):
        split = self.dataset.splits["test"]
        return split.fetch(np.arange(split.examples))


trained = functools.cache(Case)


def filled(dataset):
    """``{modality: [training view, test view]}``, the means of the training data filled in."""
    train, test = dataset.splits["train"], dataset.splits["test"]
    views = {}
    for i, m in enumerate(dataset.modalities):
        x = train.inputs[m].astype(float)
        mean = x[train.present[:, i]].mean(0)
        views[m] = [
            np.where(s.present[:, [i]], s.inputs[m].astype(float), mean) for s in (train, test)
        ]
    return views


@pytest.mark.parametrize("scaling", ["standard", "none", "range"])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_cca_is_the_published_pipeline(scaling, missing):
    """Mean fill, closed form for each pair, codes, ``LinearSVC``: in numpy and scikit-learn."""
    options = {"method.scaling": scaling, "method.projections": 3}
    case = trained("cca", THREE, missing, **options)
    views, train = filled(case.dataset), case.dataset.splits["train"]
    r, codes = 1e-4, ([], [])
    for a, b in itertools.combinations("abc", 2):
        sides = []
        for m in (a, b):
            x = views[m][0]
            unit = {"standard": x.std(0, ddof=1), "none": 1.0, "range": x.max() - x.min()}[scaling]
            sides.append([(v - x.mean(0)) / unit for v in views[m]])
        A, B, _ = transcribed(sides[0][0], sides[1][0], 3, r)
        for part in (0, 1):
            codes[part].extend([sides[0][part] @ A, sides[1][part] @ B])
    theirs = svm.LinearSVC(C=0.01, dual=False, tol=1e-10).fit(np.hstack(codes[0]), train.label)
    expected = theirs.decision_function(np.hstack(codes[1]))
    joint, _ = case.logits(case.test)
    np.testing.assert_allclose(joint, expected, atol=2e-5)
    assert (joint.argmax(1) == theirs.predict(np.hstack(codes[1]))).mean() > 0.99


def test_present_pairs_are_the_examples_that_have_both():
    case = trained("cca", ("a", "b"), 0.4, **{"method.pairs": "present", "method.projections": 2})
    train = case.dataset.splits["train"]
    both = train.present.all(1)
    x, y = (train.inputs[m][both].astype(float) for m in "ab")
    unit = [v.std(0, ddof=1) for v in (x, y)]
    A, B, _ = transcribed(x / unit[0], y / unit[1], 2, 1e-4)
    found = case.state.params["head"]["projections"]["a+b"]
    expected = signed(A / unit[0][:, None], B / unit[1][:, None])
    for mine, theirs in zip(signed(*(np.asarray(found[m]) for m in "ab")), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-4)


def test_one_view_has_its_principal_components():
    case = trained("cca", ("a",), **{"method.projections": 2, "method.scaling": "none"})
    x = case.split.inputs["a"].astype(float)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    expected = vectors[:, ::-1][:, :2] / np.sqrt(values[::-1][:2])
    (found,) = signed(np.asarray(case.state.params["head"]["projections"]["a"]["a"]))
    np.testing.assert_allclose(found, signed(expected)[0], rtol=5e-2, atol=5e-3)


@pytest.mark.parametrize("scaling", ["standard", "none", "range"])
def test_views_of_constant_and_large_features(scaling):
    """Pixels that are always 0, a constant, large values, and fewer examples than features."""
    dataset = build_dataset(("a", "b"))
    rng = np.random.default_rng(0)
    splits = {}
    for name, split in dataset.splits.items():
        wide = np.concatenate(
            [
                split.inputs["a"] * 400 + 700,
                np.zeros((split.examples, 9)),
                np.full((split.examples, 1), 1e3),
                rng.normal(size=(split.examples, 120)),
            ],
            axis=1,
        )
        splits[name] = split._replace(inputs={**split.inputs, "a": wide.astype(np.float32)})
    dataset = dataset._replace(splits=splits)
    case = Case("cca", ("a", "b"), dataset=dataset, **{"method.scaling": scaling})
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(case.state.params))
    joint, _ = case.logits(case.test)
    assert (joint.argmax(1) == case.test["label"]).mean() > 0.5


@pytest.mark.parametrize("name", METHODS)
def test_the_closed_form_does_not_depend_on_the_batches(name):
    """Other batches, and eight devices, give the same solution up to rounding."""
    small = Case(name, missing=0.3, epochs=1, batch_size=96)
    other = Case(name, missing=0.3, epochs=0, batch_size=32)
    state = small.state
    reductions = [other.reduce]
    everywhere = build_program(
        fields.resolve(build_config(("a", "b"), name, batch_size=40)), small.dataset
    )
    reductions.append(TrainingReduction(small.split, 40, everywhere.placement))
    spread = jax.device_put(state, everywhere.placement.replicated)
    for method, start, reduce in (
        (other.method, state, reductions[0]),
        (everywhere.method, spread, reductions[1]),
    ):
        found = method.stages[-1].on_epoch(start, 0, reduce)
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(found))
        first, second = (
            jax.jit(small.method.predict)(jax.device_get(s.variables), small.test)
            for s in (state, found)
        )
        np.testing.assert_allclose(first.joint, second.joint, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_the_fill_is_the_mean_of_the_observed_training_entries(name):
    case = trained(name, missing=0.4)
    train = case.dataset.splits["train"]
    for i, m in enumerate("ab"):
        expected = train.inputs[m][train.present[:, i]].mean(0)
        np.testing.assert_allclose(case.state.params["head"]["fill"][m], expected, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_closed_forms_see_nothing_of_what_is_absent(name):
    """Other numbers in the place of absent inputs, and NaN, leave the solution as it is."""
    case = trained(name, missing=0.4)
    split = case.split
    holes = {
        m: np.where(split.present[:, [i]], split.inputs[m], np.nan).astype(np.float32)
        for i, m in enumerate("ab")
    }
    reduce = TrainingReduction(split._replace(inputs=holes), BATCH, case.program.placement)
    found = case.method.stages[-1].on_epoch(case.state, 0, reduce)
    jax.tree.map(np.testing.assert_array_equal, case.state.params, found.params)


@pytest.mark.parametrize("name", METHODS)
def test_a_missing_entry_is_predicted_as_its_mean(name):
    case = trained(name, missing=0.4)
    test = {**case.test, "present": np.ones((40, 2), bool)}
    _, alone = case.logits(test)
    fill = case.state.params["head"]["fill"]
    for i, m in enumerate("ab"):
        others = {
            n: x if n == m else np.broadcast_to(fill[n], x.shape) for n, x in test["inputs"].items()
        }
        joint, _ = case.logits({**test, "inputs": others})
        np.testing.assert_allclose(alone[i], joint, atol=2e-5)
        only, _ = case.logits({**test, "present": np.tile(np.arange(2) == i, (40, 1))})
        np.testing.assert_allclose(alone[i], only, atol=2e-6)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("pairs", ["filled", "present"])
def test_synthetic_classes_are_learnt(name, pairs):
    dataset = build_dataset(test=400, missing=0.2)
    case = Case(name, dataset=dataset, epochs=6, **{"method.pairs": pairs})
    joint, alone = case.logits({**case.test, "present": np.ones((400, 2), bool)})
    label = case.test["label"]
    assert (joint.argmax(1) == label).mean() > 0.75
    assert (alone[0].argmax(1) == label).mean() > 0.5


def test_no_encoder_is_trained_by_cca():
    fresh, case = Case("cca", epochs=0), trained("cca")
    jax.tree.map(
        np.testing.assert_array_equal, fresh.state.params["encoder"], case.state.params["encoder"]
    )
    assert not case.method.stages[0].phases


def parameters(name, count, **options):
    dataset = build_dataset(THREE[:count])
    config = fields.resolve(build_config(THREE[:count], name, **options))
    method = build_program(config, dataset, jax.devices()[:1]).method
    batch = dataset.splits["train"].fetch(np.arange(1))
    head = jax.eval_shape(lambda: method.init(jax.random.key(0), batch)).params["head"]
    return {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in head.items()}


def test_parameter_counts():
    F, D, C, k = FEATURES, FEATURE_DIM, CLASSES, 3
    three = {"method.projections": k}
    pairs = {"projections": 6 * k * F, "svm": 6 * k * C + C, "fill": 3 * F}
    assert parameters("cca", 3, **three) == pairs
    assert parameters("cca", 1) == {"projections": F * F, "svm": F * C + C, "fill": F}
    heads = dict.fromkeys("abc", D * k + k) | {"fill": 3 * F, "svm": 3 * k * C + C}
    assert parameters("dcca", 3, **three) == heads
    decoder = (k + 1) * D + 2 * (D + 1) * D + 3 * 2 * D + (D + 1) * F
    decoders = {f"{m}_decoder": decoder for m in "abc"}
    assert parameters("dccae", 3, **three) == heads | decoders
    assert parameters("dcca", 2)["a"] == D * D + D, "k is at most feature_dim"


def first_loss(name, case=None, batch=None, **options):
    case = case or Case(name, epochs=0, **options)
    batch = batch or case.split.fetch(np.arange(BATCH))
    _, metrics = jax.jit(case.method.stages[0].phases[0].update)(
        case.state, batch, StepInfo(0, 0, 6)
    )
    return metrics


def test_dccae_without_reconstruction_is_dcca():
    loss = first_loss("dcca")["loss"]
    np.testing.assert_allclose(
        first_loss("dccae", **{"method.reconstruction_weight": 0.0})["loss"], loss, rtol=1e-6
    )
    more = first_loss("dccae", **{"method.reconstruction_weight": 0.5})["loss"]
    assert more > loss + 0.1


def test_dccae_learns_to_reconstruct():
    options = {"method.reconstruction_weight": 10.0, "optimizer.name": "adam"}
    case = Case("dccae", epochs=0, **options, **{"optimizer.learning_rate": 1e-2})
    update = jax.jit(case.method.stages[0].phases[0].update)
    batch, losses, state = case.split.fetch(np.arange(BATCH)), [], case.state
    for _ in range(60):
        state, metrics = update(state, batch, StepInfo(0, 0, 6))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]


def test_dcca_correlates_one_batch_entirely():
    case = Case("dcca", epochs=0, **{"method.projections": 3})
    update = jax.jit(case.method.stages[0].phases[0].update)
    batch, state = case.split.fetch(np.arange(BATCH)), case.state
    for _ in range(60):
        state, metrics = update(state, batch, StepInfo(0, 0, 6))
    assert metrics["loss"] < -2.8
    np.testing.assert_allclose(metrics["example_loss"], np.full(BATCH, metrics["loss"]), rtol=1e-6)


@pytest.mark.parametrize("name", DEEP)
def test_nothing_is_learnt_from_labels_before_the_svm(name):
    case = Case(name, epochs=0)
    update = jax.jit(case.method.stages[0].phases[0].update)
    batch = case.split.fetch(np.arange(BATCH))
    states = [
        update(case.state, {**batch, "label": label}, StepInfo(0, 0, 6))[0]
        for label in (batch["label"], np.zeros_like(batch["label"]))
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)
    for key in ("fill", "svm"):
        jax.tree.map(
            np.testing.assert_array_equal,
            (states[0].params["head"][key], states[0].opt_state["head"][key]),
            (case.state.params["head"][key], case.state.opt_state["head"][key]),
        )


@pytest.mark.parametrize("name", DEEP)
def test_filled_entries_count_unless_told(name):
    """What fills an entry matters under ``pairs=filled``, and does not under ``pairs=present``."""
    losses = {}
    for pairs in ("filled", "present"):
        case = Case(name, missing=0.4, epochs=0, **{"method.pairs": pairs})
        fill = {m: x + 3.0 for m, x in case.state.params["head"]["fill"].items()}
        head = {**case.state.params["head"], "fill": fill}
        moved = case.state.replace(params={**case.state.params, "head": head})
        losses[pairs] = [float(first_loss(name, case)["loss"])]
        case.state = moved
        losses[pairs].append(float(first_loss(name, case)["loss"]))
    assert losses["filled"][0] != losses["filled"][1]
    np.testing.assert_allclose(losses["present"][0], losses["present"][1], rtol=1e-6)


@pytest.mark.parametrize("name", DEEP)
def test_the_third_encoder_of_the_released_code(name):
    case = Case(name, THREE, epochs=0, fidelity="released")
    start = jax.device_get(case.state)
    case.train(2)
    new = case.state
    for group, before in (("encoder", start.params), ("head", start.params)):
        for key in before[group]:
            moved = not all(
                jax.tree.leaves(
                    jax.tree.map(np.array_equal, before[group][key], new.params[group][key])
                )
            )
            assert moved == (key not in ("c", "c_decoder")), key
    # The codes of the third modality are those that the second's network makes of it.
    test = {**case.test, "present": np.ones((40, 3), bool)}
    swapped = {**test, "inputs": {**test["inputs"], "c": test["inputs"]["b"]}}
    svm_head = new.params["head"]["svm"]
    k = len(svm_head["kernel"]) // 3
    blocks = svm_head["kernel"].reshape(3, k, -1)
    alike = jnp.concatenate([blocks[0], blocks[2], blocks[1]])
    head = {**new.params["head"], "svm": {**svm_head, "kernel": alike}}
    first, _ = case.logits(swapped)
    case.state = new.replace(params={**new.params, "head": head})
    second, _ = case.logits(swapped)
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_third_encoder_that_cannot_be_shared_is_refused():
    dataset = build_dataset(("a", "b", "c"))
    splits = {
        name: split._replace(inputs={**split.inputs, "c": split.inputs["c"][:, :4]})
        for name, split in dataset.splits.items()
    }
    dataset = dataset._replace(splits=splits)
    with pytest.raises(UserError, match=r"'c' through the encoder of 'b'.*third_encoder=own"):
        Case("dcca", THREE, dataset=dataset, epochs=0, fidelity="released")
    Case("dcca", THREE, dataset=dataset, epochs=0)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("cca", {"method.projections": 7}, "projections=7 is more than the 6 numbers of 'a'"),
        ("dcca", {"method.projections": 9}, "projections=9 must be at most feature_dim=8"),
        ("cca", {"method.regularization": 0.0}, "method.regularization must be positive"),
        ("dccae", {"method.svm_cost": 0.0}, "method.svm_cost must be positive"),
    ],
)
def test_refusals(name, options, sentence):
    with pytest.raises(UserError, match=sentence):
        Case(name, epochs=0, **options)


@pytest.mark.parametrize("name", DEEP)
def test_a_batch_must_be_larger_than_the_code(name):
    with pytest.raises(UserError, match="batch_size=8 must be more than the 8 projections"):
        first_loss(name, batch=build_dataset().splits["train"].fetch(np.arange(8)))


def test_one_modality_has_no_pair_and_no_step():
    case = Case("dcca", ("a",), epochs=0)
    start = jax.device_get(case.state)
    case.train(1)
    jax.tree.map(
        np.testing.assert_array_equal, start.params["encoder"], case.state.params["encoder"]
    )
    joint, _ = case.logits(case.test)
    assert (joint.argmax(1) == case.test["label"]).mean() > 0.6


def test_all_three_are_about_missing_modalities():
    for name in METHODS:
        assert methods.handles_missing(name) and not methods.sees_hidden(name)
