"""The numpy references of CPM-Nets and TATE compute what the published graphs computed."""

import pathlib

import cpm_reference
import graph_cases as cases
import numpy as np
import pytest
import tate_reference

FIXTURES = pathlib.Path(__file__).with_name("fixtures") / "graphs"


@pytest.fixture(scope="module")
def cpm():
    with np.load(FIXTURES / "cpm.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def tate():
    with np.load(FIXTURES / "tate.npz") as stored:
        return dict(stored)


def test_cpm_golden_class_loss(cpm):
    i, j = np.mgrid[:6, :3]
    labels = np.array([0, 0, 1, 1, 2, 2])
    value, gradient = cpm_reference.class_loss((5 * i + 2 * j) % 11 / 4 - 1, labels, 3)
    assert value == cpm["golden"] == 13.78125
    np.testing.assert_allclose(gradient, cpm["golden gradient"], rtol=1e-6)


def test_cpm_gradients_are_the_slopes():
    case = cases.cpm()
    latents, labels = case["train"], case["labels"]
    maps = [(case[f"w{v}"], case[f"b{v}"]) for v in range(3)]
    views = [case[f"x{v}"][: cases.TRAIN] for v in range(3)]
    present = case["present"][: cases.TRAIN]
    step = 1e-6 * np.random.default_rng(0).normal(size=latents.shape)
    for loss in (
        lambda h: cpm_reference.reconstruction(h, maps, views, present)[:2],
        lambda h: cpm_reference.class_loss(h, labels, cases.CLASSES),
    ):
        slope = (loss(latents + step)[0] - loss(latents - step)[0]) / 2
        np.testing.assert_allclose(slope, (loss(latents)[1] * step).sum(), rtol=1e-5)


def test_cpm_trains_infers_and_predicts_as_published(cpm):
    case = cases.cpm()
    maps = [(case[f"w{v}"], case[f"b{v}"]) for v in range(3)]
    seen = [case[f"x{v}"][: cases.TRAIN] for v in range(3)]
    unseen = [case[f"x{v}"][cases.TRAIN :] for v in range(3)]
    present, labels = case["present"], case["labels"]

    def losses(latents, maps):
        total, _, _ = cpm_reference.reconstruction(latents, maps, seen, present[: cases.TRAIN])
        return total, cpm_reference.class_loss(latents, labels, cases.CLASSES)[0]

    np.testing.assert_allclose(losses(case["train"], maps), cpm["losses before"], rtol=1e-5)
    latents, maps = cpm_reference.train(
        case["train"], maps, seen, present[: cases.TRAIN], labels, cases.CLASSES,
        cases.TRADE_OFF, cases.EPOCHS, cases.RATES,
    )  # fmt: skip
    np.testing.assert_allclose(losses(latents, maps), cpm["losses after"], rtol=1e-5)
    np.testing.assert_allclose(latents, cpm["trained train"], atol=2e-6)
    for v, (weight, bias) in enumerate(maps):
        np.testing.assert_allclose(weight, cpm[f"trained w{v}"], atol=2e-6)
        np.testing.assert_allclose(bias, cpm[f"trained b{v}"], atol=2e-6)
    inferred = cpm_reference.infer(
        case["test"], maps, unseen, present[cases.TRAIN :], cases.TEST_EPOCHS, cases.RATES[0]
    )
    np.testing.assert_allclose(inferred, cpm["trained test"], atol=2e-6)
    predicted = cpm_reference.predict(inferred, latents, labels, cases.CLASSES)
    np.testing.assert_array_equal(predicted, cpm["predictions"])


def run_tate(tags):
    weights, inputs = cases.tate_weights(cases.tate_shapes()), cases.tate_inputs()
    found = tate_reference.forward(weights, inputs["v"], inputs["a"], inputs["t"], tags)
    return found, tate_reference.losses(weights, found, inputs["guide"], inputs["labels"])


def test_tate_is_the_published_graph(tate):
    """With the tag that its comparison of a tensor with a number gives every example."""
    found, terms = run_tate([tate_reference.TAGS["t"]] * cases.BATCH)
    np.testing.assert_allclose(found["E"][:, :, :2], tate["encoder"], atol=1e-5)
    np.testing.assert_allclose(found["E"][:, :, -4:], tate["tags"], atol=1e-5)
    np.testing.assert_allclose(
        tate_reference.softmax(found["logits"]), tate["probabilities"], atol=1e-5
    )
    for name, value in terms.items():
        np.testing.assert_allclose(value, np.sum(tate[name]), rtol=1e-5, err_msg=name)


def test_tate_with_the_paper_s_tags_is_another(tate):
    names = ("complete", "v", "a", "t")
    found, terms = run_tate([tate_reference.TAGS[names[flag + 1]] for flag in cases.FLAGS])
    assert np.abs(found["E"][:, :, -4:] - tate["tags"]).max() > 0.1
    assert abs(terms["tag"] - tate["tag"]) > 1e-3
