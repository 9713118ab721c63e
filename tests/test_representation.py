"""The features that heads see, what is measured of them, and the study that puts it in a table."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import mla_jax
from mla_jax import methods, train
from mla_jax.compare import representation
from mla_jax.compare.representation_figures import (
    auroc,
    effective_dimensions,
    modality_gap,
    nearest_mean_accuracy,
    overlap,
    principal_map,
    trust,
)
from mla_jax.compare.studies import STUDIES
from mla_jax.config import files
from mla_jax.data.dataset import ArraySplit
from mla_jax.errors import UserError
from mla_jax.evaluate.__main__ import main as evaluate
from mla_jax.runs.predictions import ModalityPredictions, Predictions
from mla_jax.runs.representation import Representation, compute_of
from tests import test_dimensions
from tests.comparisons import undocumented
from tests.runs import config_of, digits_program, open_run, quietly

DOCS = pathlib.Path(__file__).parents[1] / "docs" / "representation.md"


# ---- Features -----------------------------------------------------------------------------------


def prepared(name, make_dataset, make_program, modalities=("a", "b", "c"), **options):
    """A program, the variables of encoders that nothing trained, and a batch."""
    modalities = modalities[:1] if methods.trains_one_modality(name) else modalities
    dataset = make_dataset(modalities)
    program = make_program(dataset, method=name, **options)
    batch = dataset.splits["test"].fetch(np.arange(4))
    params, stats = program.encoders.init(jax.random.key(0), batch["inputs"])
    return program, {"params": {"encoder": params}, "batch_stats": stats}, batch


@pytest.mark.parametrize("name", methods.REGISTRY)
def test_every_method_that_trains_encoders_has_features(name, make_dataset, make_program):
    """Of each modality from its own input alone, through its own encoder."""
    program, variables, batch = prepared(name, make_dataset, make_program)
    if name in ("cca", "cpm_net"):
        with pytest.raises(UserError, match=f"'{name}' trains no encoder"):
            compute_of(program.method)
        return
    found = program.method.features(variables, batch)
    for m in program.encoders.modalities:
        params, stats = variables["params"]["encoder"][m], variables["batch_stats"][m]
        z, _ = program.encoders.apply(m, params, stats, batch["inputs"][m], False)
        np.testing.assert_array_equal(found[m], z)
        assert found[m].shape == (4, 8) and np.ptp(found[m], 0).max() > 0
    assert list(found) == list(program.encoders.modalities)


def test_features_come_from_the_encoder_that_a_modality_goes_through(make_dataset, make_program):
    options = {"method.third_encoder": "second"}
    program, variables, batch = prepared("dcca", make_dataset, make_program, **options)
    params, stats = variables["params"]["encoder"]["b"], variables["batch_stats"]["b"]
    z, _ = program.encoders.apply("b", params, stats, batch["inputs"]["c"], False)
    np.testing.assert_array_equal(program.method.features(variables, batch)["c"], z)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs by method."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("mla", "concat"):
        quietly(config_of(name), folder / name, digits_program(name)[0])
    return folder


@pytest.fixture(scope="module")
def mla(runs):
    """The run of MLA, and its features of the test split."""
    run = open_run(runs / "mla")
    run.use(digits_program("mla")[0])
    return run, mla_jax.features(run)


def test_the_heads_make_their_logits_of_the_features(mla, runs):
    run, found = mla
    head = run.load().params["head"]["shared"]
    told = run.predict(run.dataset().splits["test"])
    for m, z in found.features.items():
        expected = z @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
        np.testing.assert_allclose(found.predictions.modalities[m].logits, expected, atol=1e-4)
        np.testing.assert_allclose(told.modalities[m].logits, expected, atol=1e-4)
    np.testing.assert_array_equal(found.predictions.classes, told.classes)
    np.testing.assert_allclose(found.predictions.weights, told.weights, atol=1e-5)
    assert (found.predictions.classes == found.label).mean() == run.result["test"]["fused"]

    other = open_run(runs / "concat")
    joint = mla_jax.features(other)
    head = other.load().params["head"]["joint"]
    joined = np.concatenate([joint.features[m] for m in other.modalities], 1)
    logits = joined @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(joint.predictions.logits, logits, atol=1e-4)
    assert joint.predictions.weights is None


def test_the_command_writes_the_features(mla, runs, tmp_path, capsys):
    _, found = mla
    path = tmp_path / "features.npz"
    assert evaluate([f"--run={runs / 'mla'}", f"--features={path}"]) == 0
    assert "950 test examples, 16 features of each of audio, text" in capsys.readouterr().out
    with np.load(path, allow_pickle=False) as content:
        for m in ("audio", "text"):
            np.testing.assert_allclose(content[f"features/{m}"], found.features[m], atol=1e-5)
            assert content[f"logits/{m}"].shape == (950, 10)
        for name in ("index", "label", "present"):
            np.testing.assert_array_equal(content[name], getattr(found, name))
        np.testing.assert_array_equal(content["classes"], found.predictions.classes)
        np.testing.assert_allclose(content["weights"], found.predictions.weights, atol=1e-5)
        assert (
            list(content["modalities"]) == ["audio", "text"] and len(content["class_names"]) == 10
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--features=x.npz", "--subsets"], "leave out --subsets"),
        (["--features=x.npz", "--output=y.json"], "leave out --output"),
        (["--features=x.csv"], "unknown ending of --features '.csv'"),
        (["--features=x.npz", "--modalities=txt"], "did you mean 'text'?"),
        (["--features=x.npz", "--split=tset"], "unknown split of digits 'tset'"),
    ],
)
def test_mistakes(options, sentence, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate([f"--run={runs / 'mla'}", *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_modality_that_is_missing_has_no_features(mla):
    run, found = mla
    test, size = run.dataset().splits["test"], 70  # more than a batch
    present = np.ones((size, 2), bool)
    present[[3, 66], 0] = False
    split = ArraySplit({m: x[:size] for m, x in test.inputs.items()}, test.label[:size], present)
    some = mla_jax.features(run, split, compute=compute_of(run.program.method))
    assert np.flatnonzero(np.isnan(some.features["audio"]).all(1)).tolist() == [3, 66]
    np.testing.assert_array_equal(some.features["text"], found.features["text"][:size])
    one = mla_jax.features(run, split, "audio")
    assert list(one.features) == ["audio"] and one.index.tolist() == [
        i for i in range(size) if i not in (3, 66)
    ]


# ---- Figures ------------------------------------------------------------------------------------


def test_the_gap_is_that_of_normalised_centroids():
    a, b = np.array([[2.0, 0, 0], [5, 0, 0], [0, 0, 0]]), np.array([[0, 3.0, 4]])
    assert modality_gap(a, b) == pytest.approx(np.linalg.norm([2 / 3, -0.6, -0.8]))
    assert modality_gap(a, 7 * a) == 0


def test_the_nearest_class_mean_one_example_at_a_time():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 41)
    label[0] = 4  # one example: in the fold that tests it, nobody is of its class
    z = rng.normal(size=(41, 3)) + 2 * rng.normal(size=(5, 3))[label]
    fold, seen, hits = [], {}, 0
    for c in label:
        fold.append(seen.setdefault(c, 0) % 2)
        seen[c] += 1
    for x, own, tested in zip(z, label, fold, strict=True):
        rest = [(v, k) for v, k, f in zip(z, label, fold, strict=True) if f != tested]
        others = {c: [v for v, k in rest if k == c] for c in set(label)}
        distance = {c: np.linalg.norm(x - np.mean(v, 0)) for c, v in others.items() if v}
        hits += min(distance, key=distance.get) == own
    assert 0 < hits < 41
    assert nearest_mean_accuracy(z, label, 6) == hits / 41


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_effective_dimensions_are_those_of_dimml(missing):
    inputs, label, present = test_dimensions.data(5, missing)
    theirs = test_dimensions.ours(inputs, label, present, 5)
    for i, m in enumerate(test_dimensions.NAMES):
        there = present[:, i]
        found = effective_dimensions(inputs[m][there], label[there], 5)
        np.testing.assert_array_equal(found, theirs[i])


def test_overlap():
    a, b = (np.isin(np.arange(8), those) for those in ([0, 1, 2, 3], [2, 3, 4, 5]))
    assert overlap(a, b) == {"overlap": 2 / 6, "overlap_by_chance": 2 / 6}
    assert overlap(a, a)["overlap"] == 1 and overlap(a, ~a)["overlap"] == 0
    assert np.isnan(overlap(a & ~a, a & ~a)["overlap"])


def test_auroc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    score, positive = rng.integers(0, 6, 50) / 5, rng.random(50) < 0.4
    assert auroc(score, positive) == pytest.approx(roc_auc_score(positive, score))
    assert np.isnan(auroc(score, positive | True))


def weighed(weights, right, present=None) -> Representation:
    """A representation of examples of class 0, ``right: bool[N, 2]`` saying who predicts it."""
    right, weights = np.asarray(right, bool), np.asarray(weights, np.float32)
    n, zeros = len(right), np.zeros(len(right), np.int32)
    present = np.ones((n, 2), bool) if present is None else np.asarray(present, bool)
    by = {
        m: ModalityPredictions(np.zeros((n, 2)), np.zeros((n, 2)), np.where(right[:, i], 0, 1))
        for i, m in enumerate("ab")
    }
    logits = np.zeros((n, 2))
    told = Predictions(logits, logits, zeros, weights, by, ("zero", "one"))
    return Representation(np.arange(n), zeros, present, {}, told)


def test_trust():
    weights = [[0.8, 0.2], [0.6, 0.4], [0.5, 0.5], [0.3, 0.7], [0.9, 0.1]]
    right = [[1, 0], [0, 1], [1, 0], [1, 1], [0, 0]]
    present = [[1, 1]] * 5
    of_all, by = trust(weighed(weights, right, present), ("a", "b"))
    assert of_all == {"examples": 3, "right": 0.5, "best": 2 / 3, "by_chance": 0.5}
    assert by["a"]["weight_right"] == pytest.approx((0.8 + 0.5 + 0.3) / 3)
    assert by["a"]["weight_wrong"] == pytest.approx((0.6 + 0.9) / 2)
    assert by["a"]["auroc"] == pytest.approx(roc_auc_score([1, 0, 1, 1, 0], [8, 6, 5, 3, 9]))
    assert by["a"]["by_class"]["zero"]["weight_right"] == by["a"]["weight_right"]
    assert np.isnan(by["a"]["by_class"]["one"]["weight_right"])
    # An example with one modality says nothing; joint logits take their share.
    more = weighed([*weights, [1, 0]], [*right, [0, 0]], [*present, [1, 0]])
    assert trust(more, ("a", "b"))[0] == of_all
    joint = [[a, b, a + b] for a, b in weights]
    halved = trust(weighed(joint, right), ("a", "b"))
    assert halved[0] == of_all
    assert halved[1]["a"]["weight_right"] == pytest.approx(by["a"]["weight_right"] / 2)


def test_the_picture_is_of_principal_components():
    rng = np.random.default_rng(0)
    z = {"a": rng.normal(size=(450, 5)) * [9, 1, 1, 1, 1], "b": rng.normal(size=(450, 5))}
    label = rng.integers(0, 3, 450)
    found = Representation(np.arange(450), label, np.ones((450, 2), bool), z, None)
    one = principal_map(found)
    assert one == principal_map(found)
    units = np.concatenate([x / np.linalg.norm(x, axis=1, keepdims=True) for x in z.values()])
    centred = units - units.mean(0)
    _, s, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(one["explained"], (s**2 / (s**2).sum())[:2])
    np.testing.assert_allclose(
        np.abs(one["points"]["b"]), np.abs(centred[450::3] @ axes[:2].T), atol=1e-4
    )
    assert one["label"]["b"] == label[::3].tolist()


# ---- The study ----------------------------------------------------------------------------------


def test_rows_are_measured_once(runs, tmp_path, drawing, capsys):
    """Two that have features, one of another kind; then what the documentation says of it."""
    rows = [
        {"label": name, "method": name, "alone": False, "runs": [f"{runs / name}"]}
        for name in ("mla", "concat")
    ]
    rows.append({"label": "unimodal", "method": "unimodal", "alone": True, "runs": ["x"]})
    found = representation.of_rows(rows, tmp_path)
    assert found["without"] == {"unimodal": "it trains one modality at a time"}
    assert "features of mla: mla" in capsys.readouterr().out
    assert (tmp_path / representation.PLOT).stat().st_size > 10_000
    for name in ("mla", "concat"):
        row, result = found["rows"][name], open_run(runs / name).result["test"]
        for m in ("audio", "text"):
            assert row["modalities"][m]["accuracy"]["mean"] == pytest.approx(result[m])
            assert row["modalities"][m]["nearest_mean"]["mean"] > 0.2
        assert 0 < row["pairs"]["audio+text"]["gap"]["mean"] < 2
    assert found["rows"]["mla"]["weights"]["examples"]["mean"] > 0
    assert found["rows"]["concat"]["weights"] == {}
    assert representation.of_rows(rows, tmp_path) == found
    assert capsys.readouterr().out == ""
    varying = ["mla", "concat", "unimodal", "audio", "text", "audio+text"]
    varying += open_run(runs / "mla").class_names
    assert undocumented({"representation": found}, varying) == set()
    text = "\n".join(representation.sections(found))
    assert "| concat | audio |" in text and "`unimodal` is left out: it trains one" in text
    kept = runs / "mla" / representation.FILE
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "identity": "another run"}))
    assert representation.kept(runs / "mla") is None  # of another result: measured again


def test_the_mean_is_over_the_seeds_and_the_pairs():
    run = {"pairs": {"a+b": {"gap": 1.0}, "a+c": {"gap": None}, "b+c": {"gap": 3.0}}}
    found = representation.over_seeds([run, {"pairs": {k: {"gap": 4.0} for k in run["pairs"]}}])
    assert found["pairs"]["a+b"]["gap"] == {"seeds": [1.0, 4.0], "mean": 2.5}
    assert found["pairs"]["a+c"]["gap"]["mean"] == 4.0
    assert representation.over_pairs(found, "gap")["seeds"] == [2.0, 4.0]
    assert representation.cell({"seeds": [2.0, 4.0]}) == "3.000 ± 1.414"


def test_the_features_of_the_documentation_can_be_trained_on(tmp_path):
    """The snippet writes what ``configs/arrays.py`` reads, on vectors like CLIP's."""
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[1], names)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2, 10, 512))
    for part, n in (("train", 200), ("test", 100)):
        label = np.arange(n) % 10
        noise = rng.normal(size=(2, n, 512)) * np.array([4, 16])[:, None, None]
        image, text = centres[:, label] + noise
        names["save_features"](tmp_path, part, image, text, label)
    options = {"epochs": 2, "dataset.path": str(tmp_path), "optimizer.learning_rate": 1.0}
    options |= {f"encoders.{m}.projection": "none" for m in ("image", "text")}
    config = files.load_config("configs/arrays.py", options, {"modalities": "image+text"})
    run = train.train(config, tmp_path / "run", devices=jax.devices()[:1], say=lambda line: None)
    found = mla_jax.features(run)
    for m, z in found.features.items():  # frozen: the heads see them as they were given
        np.testing.assert_array_equal(z, np.load(tmp_path / "test.npz")[m])
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-6)
    assert run.result["test"]["image"] > run.result["test"]["text"] + 0.1 > 0.2


def test_table4_has_the_rows_of_table1():
    entries = STUDIES["table4"].entries
    assert set(STUDIES["table1"].entries) < set(entries) and not STUDIES["table4"].published
