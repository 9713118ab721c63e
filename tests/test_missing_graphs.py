"""Our CPM-Net and TATE against their transcriptions, which compute what the published graphs do."""

import cpm_reference
import graph_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tate_reference

from mla_jax.config import fields
from mla_jax.encoders import Encoders
from mla_jax.encoders.features import Features
from mla_jax.encoders.small import Mlp
from mla_jax.functional import attention, latents
from mla_jax.functional.optimizers import Optimizer, StepInfo
from mla_jax.methods import Task, create_method
from mla_jax.methods.missing import tate
from mla_jax.parity import formula

NAMES = ("a", "b", "c")
"""Of TATE's v, a, t, in the order of their tags."""
INFO = StepInfo(np.int32(0), np.int32(0), np.int32(1))
B, WIDTH, INPUT = 6, 12, 10


def tensorflow_adam(scale):
    """On ``scale`` times the gradient.

    With ours, PyTorch's, whose epsilon stands beside the corrected root, a few numbers of the maps
    with gradients near 0 end up to 9e-5 apart.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return zeros, zeros, jnp.zeros((), jnp.int32)

    def update(gradients, state, params=None, **_):
        first, second, count = state
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * scale * g, first, gradients)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * (scale * g) ** 2, second, gradients)
        t = (count + 1).astype(jnp.float32)
        correction = jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        found = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + 1e-8), first, second)
        return found, (first, second, count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def method(name, encoders, task, rate, **switches):
    block = {"name": name, "fidelity": "released", **switches}
    chosen = fields.ConfigDict(fields.resolve_switches(block))
    optimizer = Optimizer(tensorflow_adam(task.examples), lambda info: jnp.float32(rate))
    return create_method(chosen, encoders, optimizer, task)


def batch_of(inputs, present, label):
    n = len(present)
    whole = {m: np.float32(x) for m, x in zip(NAMES, inputs, strict=True)}
    shown = {m: x * present[:, [i]].astype(np.float32) for i, (m, x) in enumerate(whole.items())}
    return {
        "inputs": shown,
        "present": present.astype(bool),
        "label": label.astype(np.int32),
        "index": np.arange(n, dtype=np.int32),
        "valid": np.ones(n, bool),
        "whole": {"inputs": whole, "present": np.ones(present.shape, bool)},
    }


@pytest.fixture(scope="module")
def cpm():
    """Our state after the alternations, the method, and the transcription's maps and latents."""
    case, train, rates = cases.cpm(), slice(cases.TRAIN), cases.RATES
    task = Task(cases.CLASSES, 10, cases.TRAIN)
    ours = method(
        "cpm_net",
        Encoders(dict.fromkeys(NAMES, Mlp(cases.LATENT)), cases.LATENT),
        task,
        rates[0],
        latent_dim=cases.LATENT,
        class_weight=cases.TRADE_OFF,
        latent_rate=rates[1],
        test_rate=rates[0],
        test_steps=5 * cases.TEST_EPOCHS,
        scaling="none",
    )
    views = [case[f"x{v}"][train] for v in range(3)]
    batch = batch_of(views, case["present"][train], case["labels"])
    state = ours.init(jax.random.key(0), batch)
    heads = {
        m: {"kernel": np.float32(case[f"w{v}"]), "bias": np.float32(case[f"b{v}"])}
        for v, m in enumerate(NAMES)
    }
    state = state.replace(
        params={**state.params, "head": {**state.params["head"], **heads}},
        method_state={**state.method_state, "latents": jnp.float32(case["train"])},
    )
    maps = [(case[f"w{v}"], case[f"b{v}"]) for v in range(3)]
    total = cpm_reference.reconstruction(case["train"], maps, views, case["present"][train])[0]
    found = {"losses": (), "expected": ()}
    phases = [jax.jit(phase.update) for phase in ours.stages[0].phases]
    for number in range(cases.EPOCHS):
        for phase in phases:
            state, metrics = phase(state, batch, INFO)
            if not number:
                found["losses"] += (float(metrics["loss"]),)
    found["expected"] = (total / cases.TRAIN,)
    end = cpm_reference.train(
        case["train"], maps, views, case["present"][train], case["labels"], cases.CLASSES,
        cases.TRADE_OFF, cases.EPOCHS, rates,
    )  # fmt: skip
    return found | {"case": case, "method": ours, "state": state, "end": end}


def test_cpm_net_alternates_as_published(cpm):
    """Maps, latents and the loss over three alternations of ten steps on all examples."""
    latent, maps = cpm["end"]
    np.testing.assert_allclose(cpm["losses"][0], cpm["expected"][0], rtol=1e-5)
    table = cpm["state"].method_state["latents"]
    np.testing.assert_allclose(table, latent, atol=5e-6)
    for m, (weight, bias) in zip(NAMES, maps, strict=True):
        head = cpm["state"].params["head"][m]
        np.testing.assert_allclose(head["kernel"], weight, atol=5e-6)
        np.testing.assert_allclose(head["bias"], bias, atol=5e-6)


def test_cpm_net_scores_classes_as_published(cpm):
    label = cpm["case"]["labels"].astype(np.int32)
    h = np.float32(cpm["end"][0])
    sums = latents.class_sums(h, label, cases.CLASSES)
    scores = latents.class_scores(h, label, sums)
    expected, _ = cpm_reference.class_scores(cpm["end"][0], label, cases.CLASSES)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    loss, _ = cpm_reference.class_loss(cpm["end"][0], label, cases.CLASSES)
    np.testing.assert_allclose(latents.class_loss(scores, label).sum(), loss, rtol=1e-5)


def test_cpm_net_infers_and_predicts_as_published(cpm):
    """From one start for everybody, which is ours: each example's own is the published one."""
    case, (trained, maps) = cpm["case"], cpm["end"]
    unseen = slice(cases.TRAIN, None)
    views, present = [case[f"x{v}"][unseen] for v in range(3)], case["present"][unseen]
    start = np.float32(case["test"][0])
    head = {**cpm["state"].params["head"]}
    head["latent"] = {**head["latent"], "start": start}
    variables = {"params": {**cpm["state"].params, "head": head}, "batch_stats": {}}
    variables["batch_stats"] = cpm["state"].batch_stats
    batch = batch_of(views, present, np.zeros(cases.TEST))
    ours = jax.jit(cpm["method"].predict)(variables, batch).joint
    inferred = cpm_reference.infer(
        np.broadcast_to(case["test"][0], (cases.TEST, cases.LATENT)), maps, views, present,
        cases.TEST_EPOCHS, cases.RATES[0],
    )  # fmt: skip
    members = np.eye(cases.CLASSES)[case["labels"]]
    expected = inferred @ trained.T @ members / members.sum(0)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def tate_parameters(seed=0):
    """The transcription's, of a small width."""
    w, shapes = WIDTH + 4, {f"project/{n}": (INPUT, WIDTH) for n in "vat"}
    for name in ("v", "a", "t", "encoder", "decoder"):
        n, p = WIDTH + 4 * (name in ("encoder", "decoder")), f"block/{name}/"
        shapes |= {p + k: (n, n) for k in ("query", "key", "value")}
        shapes |= {p + f"norm{i}/{k}": (n,) for i in (1, 2) for k in ("scale", "bias")}
        shapes |= {p + "inner/kernel": (n, 4 * n), p + "inner/bias": (4 * n,)}
        shapes |= {p + "outer/kernel": (4 * n, n), p + "outer/bias": (n,)}
    shapes |= {f"common/{n}": (WIDTH, WIDTH // 2) for n in ("va", "vt", "ta")}
    shapes |= {"pool/score": (w, 1), "pool/gate": (w, w), "pool/value": (w, w)}
    shapes |= {"reduce": (w, WIDTH), "head/kernel": (WIDTH, 4), "head/bias": (1, 4)}
    found = cases.tate_weights(shapes)
    noise = [formula.uniform(v.shape, i) / 16 for i, v in enumerate(found.values())]
    return {n: v + seed * e for (n, v), e in zip(found.items(), noise, strict=True)}


def own_block(p, name):
    part = {k.removeprefix(f"block/{name}/"): v for k, v in p.items()}
    norms = {"norm_attention": "norm1", "norm_perceptron": "norm2"}
    return {
        "attend": np.stack([part[k] for k in ("query", "key", "value")]),
        **{k: {n: part[f"{k}/{n}"] for n in ("kernel", "bias")} for k in ("inner", "outer")},
        **{k: {"scale": part[f"{n}/scale"], "shift": part[f"{n}/bias"]} for k, n in norms.items()},
    }


def own_heads(p):
    heads = {
        m: {"projection": p[f"project/{n}"], "block": own_block(p, n)}
        for m, n in zip(NAMES, "vat", strict=True)
    }
    pairs = {"a+b": "va", "a+c": "vt", "b+c": "ta"}
    heads |= {pair: {"projection": p[f"common/{n}"]} for pair, n in pairs.items()}
    heads |= {name: own_block(p, name) for name in ("encoder", "decoder")}
    both = np.stack([p["pool/value"], p["pool/gate"]])
    heads["pool"] = {"value_and_gate": both, "score": p["pool/score"]}
    heads["pooled"] = {"projection": p["reduce"]}
    heads["classifier"] = {"kernel": p["head/kernel"], "bias": p["head/bias"][0]}
    return jax.tree.map(jnp.float32, heads)


def test_tate_s_block_pooling_and_divergence_are_the_published():
    p = tate_parameters()
    x, y = (2 * formula.uniform((B, 5, WIDTH + 4), seed) for seed in (1, 2))
    ours = attention.block(own_heads(p)["encoder"], jnp.float32(x), 4, 1e-8)
    np.testing.assert_allclose(ours, tate_reference.block(p, "encoder", x), atol=1e-5)
    ours = attention.pool(own_heads(p)["pool"], jnp.float32(x))
    np.testing.assert_allclose(ours, tate_reference.gated_pool(p, x), atol=1e-5)
    ours = attention.symmetric_divergence(jnp.float32(x), jnp.float32(y)).mean(1).sum()
    np.testing.assert_allclose(ours, tate_reference.symmetric_divergence(x, y), rtol=1e-5)


def test_tate_s_dropout_is_drawn_anew_in_every_step():
    encoders = Encoders(dict.fromkeys(NAMES, Features(INPUT)), INPUT)
    switches = fields.resolve_switches({"name": "tate", "fidelity": "paper"})
    network = tate.Network(fields.ConfigDict(switches), encoders, Task(4, 10, B))
    key, batch = jax.random.key_data(jax.random.key(0)), {"index": jnp.arange(B)}

    def kept(epoch, place):
        drawn = network.kept(key, batch, StepInfo(epoch, place, 6))
        return np.concatenate([x.ravel() for x in jax.tree.leaves(drawn)])

    found = np.stack([kept(0, 0), kept(0, 1), kept(1, 0), kept(1, 1)])
    assert np.abs(np.corrcoef(found)[~np.eye(4, dtype=bool)]).max() < 0.3
    np.testing.assert_array_equal(kept(0, 0), found[0])


@pytest.mark.parametrize("tags", ["real", "last"])
def test_tate_is_its_transcription(tags):
    """Logits, tags and the loss of its second stage, with sequences of one step per modality."""
    ours = method(
        "tate",
        Encoders(dict.fromkeys(NAMES, Features(INPUT)), INPUT),
        Task(4, 10, B),
        1e-3,
        width=WIDTH,
        dropout=0.0,
        norm_epsilon=1e-8,
        tag_weight=0.1 / B,
        l2_weight=1e-5 / B,
        tags=tags,
        guide_input="whole",
    )
    inputs = [formula.uniform((B, INPUT), seed) for seed in (3, 4, 5)]
    missing = np.array(cases.FLAGS)
    present = np.arange(3) != missing[:, None]
    label = np.arange(B) % 4
    batch = batch_of(inputs, present, label)
    state = ours.init(jax.random.key(0), batch)
    p, guide = tate_parameters(), tate_parameters(seed=1)
    state = ours.stages[1].on_epoch(
        state.replace(params={**state.params, "head": own_heads(guide)}), 0, None
    )
    state = state.replace(params={**state.params, "head": own_heads(p)})

    rows = [tate_reference.TAGS[("complete", "v", "a", "t")[i + 1]] for i in missing]
    everything = [tate_reference.TAGS["complete"]] * B
    if tags == "last":
        rows = everything = [tate_reference.TAGS["t"]] * B
    steps = [x[:, None] for x in inputs]
    shown = [x * present[:, i, None, None] for i, x in enumerate(steps)]
    found = tate_reference.forward(p, *shown, rows)
    target = tate_reference.forward(guide, *steps, everything)["E"]
    terms = tate_reference.losses(p, found, target, label)
    assert all(value > 1e-6 for value in terms.values())

    logits = jax.jit(ours.predict)(state.variables, batch).joint
    np.testing.assert_allclose(logits, found["logits"], atol=1e-5)
    (phase,) = ours.stages[1].phases
    _, metrics = jax.jit(phase.update)(state, batch, INFO)
    np.testing.assert_allclose(B * metrics["loss"], terms["total"], rtol=1e-5)
