"""The projection against hand-computed vectors, and the numerical promises it makes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mla_jax.errors import UserError
from mla_jax.functional.heads import apply_head
from mla_jax.functional.projection import alpha_schedule, orthogonal_projection

# Two calls.  SCALAR follows equations 2-3 of the MLA paper, ELEMENTWISE the published code (quirks
# Q2-Q4 of docs/fidelity.md).  G is [C, D], as in PyTorch; a kernel here is its transpose.
G = np.array([[1, 0, -1], [0.5, 2, 0]], np.float32)
MEANS = np.array([[1, 1, 2], [1, 0, 1]], np.float32)
ALPHAS = (0.1, 0.0316228)

ELEMENTWISE_P = [
    [
        [0.039495, -0.394953, -0.413761],
        [-0.394953, 0.039495, -0.413761],
        [-0.413761, -0.413761, 0.010596],
    ],
    [
        [0.017709, -0.393694, 0.001051],
        [-0.000216, -0.815422, 0.000230],
        [-0.000302, -0.423631, 0.017700],
    ],
]
ELEMENTWISE_G = [
    [[0.453256, 0.018807, -0.424357], [-0.770159, -0.118486, -1.034402]],
    [[0.016658, -0.000445, -0.018002], [-0.778533, -1.630953, -0.847413]],
]
SCALAR_P = [
    [
        [0.836066, -0.163934, -0.327869],
        [-0.163934, 0.836066, -0.327869],
        [-0.327869, -0.327869, 0.344262],
    ],
    [
        [0.371740, 0.285413, -0.342847],
        [0.285413, 0.401213, -0.313374],
        [-0.342847, -0.313374, 0.343779],
    ],
]
SCALAR_G = [
    [[1.163934, 0.163934, -0.672131], [0.090164, 1.590164, -0.819672]],
    [[0.714587, 0.598787, -0.686626], [0.756696, 0.945133, -0.798171]],
]
ELEMENTWISE = {"denominator": "elementwise", "normalize": "frobenius"}
LATE, EARLY = {"order": "project_then_update"}, {"order": "update_then_project"}
VARIANTS = [{}, EARLY, ELEMENTWISE, {"apply": "add"}, {"skip_first": True}]


def two_calls(**options):
    """``[(P, G) after call 1, after call 2]`` in the spec's layout, and the biases."""
    transform = orthogonal_projection(3, **options)
    gradient = {"kernel": jnp.asarray(G.T), "bias": jnp.array([3.0, -4.0])}
    state, results, biases = transform.init(gradient), [], []
    for mean, alpha in zip(MEANS, ALPHAS, strict=True):
        out, state = transform.update(gradient, state, feature_mean=jnp.asarray(mean), alpha=alpha)
        results.append((np.asarray(state.P), np.asarray(out["kernel"]).T))
        biases.append(np.asarray(out["bias"]))
    return results, biases


@pytest.mark.parametrize(
    ("options", "expected_p", "expected_g"),
    [
        ({**EARLY, **ELEMENTWISE}, ELEMENTWISE_P, ELEMENTWISE_G),
        (EARLY, SCALAR_P, SCALAR_G),
        (LATE, SCALAR_P, [G, SCALAR_G[0]]),
        ({}, SCALAR_P, [G, SCALAR_G[0]]),  # the paper's order is the default
        ({**LATE, **ELEMENTWISE}, ELEMENTWISE_P, [G, ELEMENTWISE_G[0]]),
    ],
)
def test_golden_vectors(options, expected_p, expected_g):
    results, biases = two_calls(**options)
    for i in range(2):  # the vectors have 6 decimals and alpha 7 digits
        np.testing.assert_allclose(results[i][0], expected_p[i], rtol=0, atol=2e-6)
        np.testing.assert_allclose(results[i][1], expected_g[i], rtol=0, atol=2e-6)
        np.testing.assert_array_equal(biases[i], [3, -4])


def test_skip_first_leaves_the_first_call_alone():
    (first, second), _ = two_calls(skip_first=True, **EARLY)
    np.testing.assert_array_equal(first[0], np.eye(3))
    np.testing.assert_array_equal(first[1], G)
    r = MEANS[1]  # so the second call is the first update
    P = np.eye(3) - np.outer(r, r) / (ALPHAS[1] + r @ r)
    np.testing.assert_allclose(second[0], P, atol=1e-6)
    np.testing.assert_allclose(second[1], G @ P, atol=1e-6)


def test_add_keeps_the_gradient():
    replaced, _ = two_calls(**EARLY)
    added, _ = two_calls(apply="add", **EARLY)
    for (P, projected), (same_P, total) in zip(replaced, added, strict=True):
        np.testing.assert_array_equal(P, same_P)
        np.testing.assert_allclose(total, G + projected, atol=1e-6)


def test_frobenius_norm_is_one():
    (first, second), _ = two_calls(normalize="frobenius")
    assert np.linalg.norm(first[0]) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(second[0]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("option", ["denominator", "normalize", "order", "apply"])
def test_unknown_option(option):
    with pytest.raises(UserError, match=f"{option} 'scalr'"):
        orthogonal_projection(3, **{option: "scalr"})


@pytest.mark.parametrize("options", VARIANTS)
def test_no_gradient_through_the_feature_mean(options):
    transform = orthogonal_projection(3, **options)
    gradient = {"kernel": jnp.asarray(G.T), "bias": jnp.zeros(2)}
    state = transform.init(gradient)._replace(count=jnp.array(1))

    def total(mean):
        out, new = transform.update(gradient, state, feature_mean=mean, alpha=0.1)
        return out["kernel"].sum() + new.P.sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.asarray(MEANS[0])), np.zeros(3))


def test_stays_symmetric_positive_semidefinite():
    D, updates, per_epoch = 64, 2000, 50
    rng = np.random.default_rng(0)
    centres = np.maximum(rng.normal(size=(30, D)), 0)  # 3 modalities x 10 classes, after a ReLU
    shares = rng.dirichlet(np.ones(10), updates)  # of the classes in a batch
    modality = np.arange(updates) % 3
    means = np.stack(
        [s @ centres[10 * m : 10 * m + 10] for s, m in zip(shares, modality, strict=True)]
    )
    transform = orthogonal_projection(D)
    gradient = {"kernel": jnp.ones((D, 2)), "bias": jnp.ones(2)}

    def body(state, step):
        mean, i = step
        alpha = alpha_schedule(i % per_epoch, per_epoch)
        out, state = transform.update(gradient, state, feature_mean=mean, alpha=alpha)
        return state, out["kernel"]

    steps = (jnp.asarray(means, jnp.float32), jnp.arange(updates))
    state, kernels = jax.lax.scan(body, transform.init(gradient), steps)
    P = np.asarray(state.P, np.float64)
    np.testing.assert_array_equal(P, P.T)
    eigenvalues = np.linalg.eigvalsh(P)
    # In exact arithmetic they lie in (0, 1]; 2000 float32 roundings of 6e-8 each add up to less.
    assert eigenvalues.min() > -1e-5
    assert eigenvalues.max() < 1 + 1e-5
    assert (eigenvalues < 0.1).sum() >= 25, "P has forgotten nothing: it was not updated"
    assert np.isfinite(kernels).all()
    assert int(state.count) == updates


def dots(jaxpr):
    """All ``dot_general`` equations of a jaxpr, nested ones too."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append(equation)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    found += dots(inner)
    return found


def is_highest(equation) -> bool:
    precision = equation.params["precision"]
    return precision is not None and set(precision) == {jax.lax.Precision.HIGHEST}


@pytest.mark.parametrize("options", VARIANTS)
def test_every_product_is_full_float32(options):
    transform = orthogonal_projection(3, **options)
    gradient = {"kernel": jnp.asarray(G.T), "bias": jnp.zeros(2)}

    @jax.jit
    def update(state, mean):
        return transform.update(gradient, state, feature_mean=mean, alpha=0.1)

    found = dots(jax.make_jaxpr(update)(transform.init(gradient), jnp.asarray(MEANS[0])).jaxpr)
    assert len(found) >= 2  # P h and P G at least
    assert all(map(is_highest, found))


def test_head_products_are_full_float32_forwards_and_backwards():
    def loss(head, x):
        return apply_head(head, x).sum()

    head = {"kernel": jnp.asarray(G.T), "bias": jnp.zeros(2)}
    found = dots(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(head, jnp.asarray(MEANS)).jaxpr)
    assert len(found) >= 2
    assert all(map(is_highest, found))


def test_the_search_for_products_looks_inside():
    def body(x, _):
        return jax.jit(jnp.matmul)(x, x), None

    traced = jax.make_jaxpr(lambda x: jax.lax.scan(body, x, length=2))(jnp.eye(2))
    assert len(dots(traced.jaxpr)) == 1
    assert not is_highest(dots(traced.jaxpr)[0])


def test_bfloat16_gradients_leave_p_in_float32():
    transform = orthogonal_projection(3, **EARLY)
    gradient = {"kernel": jnp.asarray(G.T, jnp.bfloat16), "bias": jnp.zeros(2, jnp.bfloat16)}
    mean = jnp.asarray(MEANS[0], jnp.bfloat16)
    out, state = transform.update(gradient, transform.init(gradient), feature_mean=mean, alpha=0.1)
    assert state.P.dtype == jnp.float32
    # G and the mean are exact in bfloat16, so the golden vectors hold to full precision.
    np.testing.assert_allclose(state.P, SCALAR_P[0], atol=2e-6)
    np.testing.assert_allclose(np.asarray(out["kernel"]).T, SCALAR_G[0], atol=2e-6)


def test_in_an_optax_chain_the_projection_acts_before_momentum():
    chain = optax.chain(orthogonal_projection(3), optax.trace(0.9))
    gradient = {"kernel": jnp.asarray(G.T), "bias": jnp.ones(2)}
    state = chain.init(gradient)
    for mean, alpha in zip(MEANS, ALPHAS, strict=True):
        out, state = chain.update(gradient, state, gradient, feature_mean=mean, alpha=alpha)
    np.testing.assert_allclose(
        np.asarray(out["kernel"]).T, 0.9 * G + np.array(SCALAR_G[0]), atol=2e-6
    )
    np.testing.assert_allclose(out["bias"], [1.9, 1.9], atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "expected"), [(0, 0.1), (25, 10**-1.25), (50, 0.0316227766), (99, 10**-1.99)]
)
def test_alpha_schedule(batch, expected):
    assert float(alpha_schedule(batch, 100)) == pytest.approx(expected, rel=1e-6)
