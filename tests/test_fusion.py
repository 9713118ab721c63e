"""Fusion rules against hand-computed vectors, and what must hold for any logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mla_jax.errors import UserError
from mla_jax.functional import fusion

# Three modalities, two examples, three classes.  The expected weights of MLA follow section 3.3 of
# its paper; those over the batch axis follow quirk Q5 of docs/fidelity.md.
LOGITS = np.array(
    [
        [[2, 0, -1], [0.5, 1, 0]],
        [[0, 0.3, 0.1], [1, -2, 0.5]],
        [[0.2, 0.1, 0], [0, 0, 3]],
    ],
    np.float32,
)
RULES = {
    "entropy": fusion.entropy_weights,
    "equal": fusion.equal_weights,
    "batch_entropy": fusion.batch_entropy_weights,
    "fixed": lambda logits, present: fusion.fixed_weights((0.55, 0.45, 0.3)[: len(logits)])(
        logits, present
    ),
}
RULES = {name: jax.jit(rule) for name, rule in RULES.items()}
PER_EXAMPLE = ["entropy", "equal", "fixed"]
EXACT = 1e-6  # a few float32 roundings of numbers of order 1; also the vectors' printed digits


def everyone(logits):
    return jnp.ones(logits.shape[1::-1], bool)


def weights(rule, logits, present=None):
    logits = jnp.asarray(logits, jnp.float32)
    return np.asarray(RULES[rule](logits, everyone(logits) if present is None else present))


def random_case(seed, modalities, examples=6, classes=4, scale=3.0):
    """Logits ``[M, B, C]`` and ``present [B, M]``, one example with all, one with none."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(modalities, examples, classes)).astype(np.float32) * scale
    present = rng.random((examples, modalities)) < 0.6
    present[0], present[1] = True, False
    return logits, present


def test_golden_entropies():
    expected = [[0.524267, 1.090636, 1.095287], [1.020191, 0.777870, 0.366594]]
    np.testing.assert_allclose(fusion.entropy(jnp.asarray(LOGITS)).T, expected, atol=EXACT)


@pytest.mark.parametrize(
    ("rule", "modalities", "expected"),
    [
        ("entropy", 2, [[0.637925, 0.362075], [0.439714, 0.560286]]),
        ("entropy", 3, [[0.468926, 0.266154, 0.264919], [0.238285, 0.303624, 0.458090]]),
        ("batch_entropy", 2, [[0.480364, 0.519636]] * 2),
        ("batch_entropy", 3, [[0.317190, 0.343123, 0.339687]] * 2),
        ("equal", 3, [[1 / 3] * 3] * 2),
    ],
)
def test_golden_weights(rule, modalities, expected):
    np.testing.assert_allclose(weights(rule, LOGITS[:modalities]), expected, atol=EXACT)


@pytest.mark.parametrize(
    ("temperature", "expected", "mixed"),
    [
        (1.0, [0.370929, 0.299655, 0.329415], [1.071274, 0.643951, 0.370929]),
        (3.0, [0.345715, 0.321980, 0.332305], [1.023735, 0.659447, 0.345715]),
    ],
)
def test_golden_certainty_mix(temperature, expected, mixed):
    """DI-MML's specification, section 6: two private predictions and the fused one."""
    logits = jnp.array([[[2.0, 0, 1]], [[0, 0.5, 0]], [[1, 1.5, 0]]])
    w = fusion.certainty_weights(temperature)(logits, everyone(logits))
    np.testing.assert_allclose(w, [expected], atol=EXACT)
    np.testing.assert_allclose(fusion.combine(w, logits), [mixed], atol=EXACT)


def certainty_case():
    logits, present = random_case(3, modalities=3, examples=40)
    logits[:, 2:4] *= 20  # predictions of probability 1
    return logits, jnp.asarray(present)


@pytest.mark.parametrize("temperature", [0.01, 1e-6])
def test_certainty_at_a_low_temperature_is_a_softmax(temperature):
    """exp(100) is infinite in float32."""
    logits, present = certainty_case()
    found = np.asarray(jax.jit(fusion.certainty_weights(temperature))(logits, present))
    assert (found[~present] == 0).all()
    np.testing.assert_allclose(found.sum(1), present.any(1), atol=EXACT)
    certainty = np.asarray(jax.nn.softmax(logits).max(-1).T, np.float64)
    scores = np.where(present, certainty / temperature, -1e9)
    expected = np.exp(scores - scores.max(1, keepdims=True)) * present
    expected /= np.maximum(expected.sum(1, keepdims=True), 1e-9)
    clear = np.sort(scores, 1)[:, -1] - np.sort(scores, 1)[:, -2] > 20
    assert clear.sum() > 5
    np.testing.assert_allclose(found[clear], expected[clear], atol=EXACT)


@pytest.mark.parametrize("temperature", [0.02, 1.0, 3.0])
def test_certainty_is_bit_equal_to_the_plain_formula_where_that_is_finite(temperature):
    def plain(logits, present):
        certainty = jax.nn.softmax(logits).max(-1).T / temperature
        raw = jnp.where(present, jnp.exp(certainty), 0)
        return raw / jnp.where(present.any(1, keepdims=True), raw.sum(1, keepdims=True), 1)

    found = jax.jit(fusion.certainty_weights(temperature))(*certainty_case())
    np.testing.assert_array_equal(found, jax.jit(plain)(*certainty_case()))


def test_golden_energies():
    """QMF: a tenth of log sum exp; those of the absent are 0, and 1e4 does not overflow."""
    logits = jnp.log(jnp.array([[[1.0, 2, 3]], [[4, 5, 6]]]))
    w = fusion.energy_weights(logits, jnp.array([[True, True]]))
    np.testing.assert_allclose(w, [[np.log(6) / 10, np.log(15) / 10]], atol=EXACT)
    w = fusion.energy_weights(jnp.full((2, 1, 3), 1e4), jnp.array([[True, False]]))
    np.testing.assert_allclose(w, [[(1e4 + np.log(3)) / 10, 0]], rtol=1e-6)


def test_combine_is_the_weighted_sum_of_logits():
    w = np.array([[0.2, 0.3, 0.5], [1, 0, 0]], np.float32)
    expected = np.einsum("bm,mbc->bc", w, LOGITS)
    np.testing.assert_allclose(fusion.combine(jnp.asarray(w), LOGITS), expected, atol=EXACT)


@pytest.mark.parametrize("magnitude", [1.0, 1e4])
def test_entropy_is_finite_for_101_classes_and_huge_logits(magnitude):
    peaked = np.full((4, 101), -magnitude, np.float32)
    peaked[np.arange(4), np.arange(4)] = magnitude
    uniform = np.full((4, 101), magnitude, np.float32)
    logits = np.stack([peaked, uniform])
    entropies = np.asarray(fusion.entropy(jnp.asarray(logits)))
    np.testing.assert_allclose(entropies[1], np.log(101), rtol=EXACT)
    w = weights("entropy", logits)
    assert np.isfinite(w).all()
    assert np.isfinite(fusion.combine(jnp.asarray(w), logits)).all()
    if magnitude == 1e4:  # entropies 0 and ln 101: the weights are as 101 to 1
        np.testing.assert_array_equal(entropies[0], 0)
        np.testing.assert_allclose(w, [[101 / 102, 1 / 102]] * 4, atol=EXACT)


seeds = st.integers(0, 2**32 - 1)
modality_counts = st.sampled_from([1, 2, 3])
scales = st.sampled_from([0.01, 3.0, 1e4])


@pytest.mark.parametrize("rule", PER_EXAMPLE)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, modalities=modality_counts, scale=scales)
def test_each_example_stands_alone(rule, seed, modalities, scale):
    logits, present = random_case(seed, modalities, scale=scale)
    w = weights(rule, logits, present)
    order = np.random.default_rng(seed).permutation(len(w))
    np.testing.assert_allclose(
        weights(rule, logits[:, order], present[order]), w[order], atol=EXACT
    )
    rows = [weights(rule, logits[:, [i]], present[[i]])[0] for i in range(len(w))]
    np.testing.assert_allclose(rows, w, atol=EXACT)


@pytest.mark.parametrize("rule", PER_EXAMPLE)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, modalities=modality_counts, scale=scales)
def test_missing_modalities_weigh_nothing(rule, seed, modalities, scale):
    logits, present = random_case(seed, modalities, scale=scale)
    w = weights(rule, logits, present)
    assert (w >= 0).all()
    np.testing.assert_array_equal(w[~present], 0)
    assert (w[present] > 0).all()
    total = {"fixed": sum((0.55, 0.45, 0.3)[:modalities])}.get(rule, 1.0)
    np.testing.assert_allclose(w.sum(1), np.where(present.any(1), total, 0), atol=EXACT)

    logits[~present.T] = np.nan  # an absent modality may hold anything
    same = weights(rule, logits, present)
    np.testing.assert_array_equal(same, w)
    fused = np.asarray(fusion.combine(jnp.asarray(same), logits))
    assert np.isfinite(fused).all()
    np.testing.assert_array_equal(fused[~present.any(1)], 0)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, modalities=modality_counts, scale=scales)
def test_equal_entropies_get_equal_weights(seed, modalities, scale):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(6, 4)).astype(np.float32) * scale
    logits = np.stack([first[:, rng.permutation(4)] for _ in range(modalities)])
    _, present = random_case(seed, modalities)
    w = weights("entropy", logits, present)
    count = present.sum(1, keepdims=True)
    # The entropies are sums in another order: equal to a few roundings of ln 4, so 1e-5.
    np.testing.assert_allclose(w, np.where(present, 1 / np.maximum(count, 1), 0), atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_padding_and_absent_rows_take_no_part(rule):
    logits, _ = random_case(0, 2)
    w = weights(rule, logits)
    padded = np.concatenate([logits, np.full((2, 3, 4), 50.0, np.float32)], axis=1)
    padded[:, -1] = np.nan
    present = np.ones((9, 2), bool)
    present[6:] = False
    both = weights(rule, padded, present)
    np.testing.assert_allclose(both[:6], w, atol=EXACT)
    np.testing.assert_array_equal(both[6:], 0)


def test_batch_entropy_depends_on_the_neighbours():
    logits, _ = random_case(0, 2)
    together, alone = weights("batch_entropy", logits), weights("batch_entropy", logits[:, :1])
    assert np.ptp(together, axis=0).max() == 0, "one weight per modality and batch"
    np.testing.assert_allclose(alone, [[0.5, 0.5]], atol=EXACT)  # Q5: a batch of one
    assert abs(together[0, 0] - 0.5) > 0.01


def test_batch_entropy_overflows_as_released():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 64, 101)).astype(np.float32) * [[[6.0]], [[0.5]]]
    w = weights("batch_entropy", logits)
    assert np.isnan(w[:, 0]).all(), "Q6: exp of a gap above 88.7 nats"
    np.testing.assert_array_equal(w[:, 1], 0)
    fused = np.asarray(fusion.combine(jnp.asarray(w), logits))
    assert np.isnan(fused).all()
    assert (jnp.asarray(fused).argmax(-1) == 0).all()
    assert np.isfinite(weights("entropy", logits)).all()


@pytest.mark.parametrize("classes", [4, 101])
def test_batch_entropy_without_a_modality_is_that_of_the_others(classes):
    logits, _ = random_case(0, 3, examples=16, classes=classes, scale=1.0)
    present = np.ones((16, 3), bool)
    present[:, 1] = False  # nobody in the batch has it
    w = weights("batch_entropy", logits, present)
    np.testing.assert_array_equal(w[:, 1], 0)
    # Entropies over the batch reach C ln B, 280 nats for 101 classes: float32 keeps 3e-5 of them.
    rounding = classes * np.log(16) * np.finfo(np.float32).eps
    alone = weights("batch_entropy", logits[[0, 2]])
    np.testing.assert_allclose(w[:, [0, 2]], alone, atol=max(EXACT, rounding))


def test_fixed_weights_are_exact_when_all_are_present():
    w = np.asarray(fusion.fixed_weights((0.55, 0.45))(LOGITS[:2], everyone(LOGITS[:2])))
    np.testing.assert_array_equal(w, np.array([[0.55, 0.45]] * 2, np.float32))
    w = np.asarray(fusion.fixed_weights((0.35, 0.25, 0.4))(LOGITS, everyone(LOGITS)))
    np.testing.assert_array_equal(w, np.array([[0.35, 0.25, 0.4]] * 2, np.float32))


def test_fixed_weights_go_to_the_present():
    present = jnp.array([[True, False, True], [False, False, False]])
    w = fusion.fixed_weights((0.35, 0.25, 0.4))(LOGITS, present)
    np.testing.assert_allclose(w, [[0.35 / 0.75, 0, 0.4 / 0.75], [0, 0, 0]], atol=EXACT)


def test_fixed_weights_that_are_all_zero_do_not_divide_by_zero():
    present = jnp.array([[True, False], [True, True]])
    w = fusion.fixed_weights((0.0, 1.0))(LOGITS[:2], present)
    np.testing.assert_array_equal(w, [[0, 0], [0, 1]])


def test_wrong_number_of_fixed_weights():
    with pytest.raises(UserError, match="2 fusion weights for 3 modalities"):
        fusion.fixed_weights((0.55, 0.45))(LOGITS, everyone(LOGITS))


def test_released_weights_are_those_of_the_code():
    assert fusion.RELEASED_FIXED_WEIGHTS == {2: (0.55, 0.45), 3: (0.35, 0.25, 0.40)}
