"""CPM-Net and TATE: golden values, numpy transcriptions and what follows from the equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax.config import fields
from mla_jax.errors import UserError
from mla_jax.functional import attention, latents
from mla_jax.functional.optimizers import StepInfo
from mla_jax.program import build_program
from tests.conftest import build_config, build_dataset, fresh_state

LINEAR = {"name": "features", "projection": "linear"}
N, K, C = 16, 5, 3


def golden():
    i, j = np.indices((6, 3))
    h = (((5 * i + 2 * j) % 11) / 4 - 1).astype(np.float32)
    return jnp.asarray(h), jnp.array([0, 0, 1, 1, 2, 2])


def test_the_class_loss_is_the_golden_value():
    h, label = golden()
    scores = latents.class_scores(h, label, latents.class_sums(h, label, 3))
    assert float(latents.class_loss(scores, label).sum()) == pytest.approx(13.78125)


def test_a_class_without_another_example_does_not_count():
    h, _ = golden()
    label = jnp.array([0, 1, 1, 1, 1, 1])
    scores = latents.class_scores(h, label, latents.class_sums(h, label, 3))
    losses = latents.class_loss(scores, label)
    assert losses[0] == 0 and np.isfinite(losses).all()
    assert np.isneginf(scores[0, 0]) and np.isneginf(scores[:, 2]).all()


def test_the_quadratic_form_has_the_gradient_of_the_reconstruction():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    heads = [{"kernel": draw(K, f), "bias": draw(f)} for f in (4, 7)]
    views, h = [draw(N, 4), draw(N, 7)], draw(N, K)
    observed = jnp.asarray(rng.random((N, 2)) < 0.6)
    expected = jax.grad(lambda h: latents.reconstruction(heads, h, views, observed).sum())(h)
    found = latents.normal_equations(heads, views).gradient(h, observed)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def program_of(method, modalities=("a", "b"), dataset=None, **options):
    dataset = dataset or build_dataset(modalities, train=N)
    config = fields.resolve(build_config(modalities, method, encoder=LINEAR, **options))
    program = build_program(config, dataset, jax.devices()[:1])
    return program, fresh_state(program, dataset), dataset


def numpy_adam(parameter, gradient, moments, rate):
    moments["t"] += 1
    moments["m"] = 0.9 * moments["m"] + 0.1 * gradient
    moments["v"] = 0.999 * moments["v"] + 0.001 * gradient**2
    corrected = rate * np.sqrt(1 - 0.999 ** moments["t"]) / (1 - 0.9 ** moments["t"])
    return parameter - corrected * moments["m"] / (np.sqrt(moments["v"]) + 1e-8)


def numpy_class_gradient(h, label, classes):
    """Of the dense formula of ``classification_loss``, through every h_n."""
    one_hot = np.eye(classes)[label]
    gram = h @ h.T
    np.fill_diagonal(gram, 0)
    count = one_hot.sum(0) - one_hot
    scores = gram @ one_hot / count
    best = scores.argmax(1)
    to_scores = np.zeros_like(scores)  # the hinge is 0 where the best class is the own
    wrong = np.flatnonzero(best != label)
    to_scores[wrong, best[wrong]] += 1
    to_scores[wrong, label[wrong]] -= 1
    to_gram = (to_scores / count) @ one_hot.T
    np.fill_diagonal(to_gram, 0)
    return (to_gram + to_gram.T) @ h


def test_a_batch_of_all_examples_is_the_published_algorithm():
    options = {"method.normalized": False, "method.scaling": "none", "method.class_weight": 2.0}
    options |= {"optimizer.name": "adam", "optimizer.learning_rate": 1e-3}
    options |= {"optimizer.weight_decay": 0.0, "optimizer.schedule": "constant"}
    program, state, dataset = program_of("cpm_net", **options)
    batch = dataset.splits["train"].fetch(np.arange(N))
    x = [np.float64(batch["inputs"][m]) for m in "ab"]
    h = np.float64(state.method_state["latents"])
    heads = [jax.tree.map(np.float64, state.params["head"][m]) for m in "ab"]

    def none(p):
        return {"t": 0, "m": np.zeros_like(p), "v": np.zeros_like(p)}

    of_heads = [{k: none(head[k]) for k in head} for head in heads]
    of_h = none(h)
    for epoch in range(4):
        for phase in program.method.stages[0].phases:
            state, _ = jax.jit(phase.update)(state, batch, StepInfo(epoch, 0, 1))
        for _ in range(5):
            for v, head in enumerate(heads):
                error = h @ head["kernel"] + head["bias"] - x[v]
                gradients = {"kernel": 2 * h.T @ error, "bias": 2 * error.sum(0)}
                for k in head:
                    head[k] = numpy_adam(head[k], gradients[k], of_heads[v][k], 1e-3)
        for _ in range(5):
            errors = [h @ a["kernel"] + a["bias"] - x[v] for v, a in enumerate(heads)]
            gradient = sum(2 * e @ a["kernel"].T for e, a in zip(errors, heads, strict=True))
            gradient += 2.0 * numpy_class_gradient(h, batch["label"], C)
            h = numpy_adam(h, gradient, of_h, 1e-2)
    np.testing.assert_allclose(state.method_state["latents"], h, atol=1e-4)
    for m, head in zip("ab", heads, strict=True):
        for k in head:
            np.testing.assert_allclose(state.params["head"][m][k], head[k], atol=1e-4)
    means = np.stack([h[batch["label"] == c].mean(0) for c in range(C)])
    np.testing.assert_allclose(state.params["head"]["latent"]["means"], means, atol=1e-4)


def test_a_batch_moves_its_own_latents_and_no_others():
    program, state, dataset = program_of("cpm_net", dataset=build_dataset(("a", "b"), train=32))
    batch = dataset.splits["train"].fetch(np.arange(16))
    new, _ = jax.jit(program.method.stages[0].phases[1].update)(state, batch, StepInfo(0, 0, 2))
    before, after = (s.method_state["latents"] for s in (state, new))
    assert (before[:16] != after[:16]).any(1).all()
    np.testing.assert_array_equal(before[16:], after[16:])
    np.testing.assert_array_equal(new.method_state["count"], [5] * 16 + [0] * 16)
    np.testing.assert_array_equal(new.method_state["label"][16:], -1)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_widths_of_tate(count):
    modalities = tuple("abcde"[:count])
    _, state, _ = program_of("tate", modalities, build_dataset(modalities, train=N))
    heads, d = state.params["head"], 8
    pairs = [name for name in heads if "+" in name]
    assert len(pairs) == count * (count - 1) // 2
    common = d if count == 1 else (count - 1) * -(-d // (count - 1))
    width = -(-(common + 1 + count) // 4) * 4
    assert heads["encoder"]["attend"].shape == (3, width, width)
    assert heads["classifier"]["kernel"].shape == (d, 3)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UserError, match=r"method\.attention_heads=4 must divide method\.width=10"):
        program_of("tate", **{"method.width": 10})


def numpy_norm(x, epsilon):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)


def test_the_attention_block_is_the_published_one():
    params = attention.init_block(jax.random.key(0), 8, "xavier")
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    query, key, value = (x @ np.asarray(w) for w in params["attend"])
    parts = []
    for h in range(4):
        columns = slice(2 * h, 2 * h + 2)
        scores = query[..., columns] @ key[..., columns].swapaxes(1, 2) / np.sqrt(2)
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        parts.append(weights @ value[..., columns])
    y = numpy_norm(x + np.concatenate(parts, -1), 1e-8)
    inner = np.maximum(y @ params["inner"]["kernel"] + params["inner"]["bias"], 0)
    y = numpy_norm(y + inner @ params["outer"]["kernel"] + params["outer"]["bias"], 1e-8)
    np.testing.assert_allclose(attention.block(params, x, 4, 1e-8), y, rtol=1e-4, atol=1e-4)


def test_the_divergence_is_symmetric_and_0_of_equals():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (a, b))
    expected = (p * np.log(p / q)).sum(-1) + (q * np.log(q / p)).sum(-1)
    np.testing.assert_allclose(attention.symmetric_divergence(a, b), expected, rtol=1e-4)
    np.testing.assert_array_equal(attention.symmetric_divergence(a, a), 0)


def test_the_guide_is_what_the_first_stage_made_and_then_stands_still():
    program, state, dataset = program_of("tate")
    batch = dataset.splits["train"].fetch(np.arange(N))
    guide, missing = program.method.stages
    state, _ = jax.jit(guide.phases[0].update)(state, batch, StepInfo(0, 0, 1))
    state = missing.on_epoch(state, 0, None)
    taught = jax.tree.map(np.array, state.variables)
    assert missing.on_epoch(state, 1, None) is state
    state, _ = jax.jit(missing.phases[0].update)(state, batch, StepInfo(0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, state.method_state["guide"], taught)
    moved = jax.tree.map(lambda x, y: (x != y).any(), state.params, taught["params"])
    assert any(jax.tree.leaves(moved))
