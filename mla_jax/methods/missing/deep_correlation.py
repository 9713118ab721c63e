"""Code that deep CCA and DCCAE share: see ``dcca.py`` for the method and its source."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.errors import UserError
from mla_jax.functional.correlation import correlation_loss
from mla_jax.functional.heads import apply_head, init_head
from mla_jax.functional.losses import accuracy, masked_mean, shared_out
from mla_jax.functional.optimizers import Optimizer, StepInfo
from mla_jax.methods.base import Method, Phase, ReduceTraining, Stage, Task
from mla_jax.methods.joint import joint_fusion
from mla_jax.methods.missing.mean_fill import observed, observed_means, where_shown
from mla_jax.methods.missing.svm_stage import svm_stage, with_heads
from mla_jax.methods.missing.targets import INPUT, raw_or_features, raw_widths
from mla_jax.state import Batch, Metrics, Prediction, TrainState

PUBLISHED_PROJECTIONS = 10

Named = dict[str, Any]
"""``{modality: something}``."""


class Term(NamedTuple):
    """An extra loss term with its own heads, which are updated with their modality."""

    init_head: Callable[[jax.Array, int, int], Any]
    """``(rng, k, width of the raw vector) -> head``."""
    loss: Callable[[Named, Named, Named, Named], jax.Array]
    """``(heads, codes: [B, k], raw vectors: [B, F_m], counted: bool[B]) -> a number``, each by
    modality and with missing entries filled."""
    suffix: str
    """The suffix of the heads' names, after the modality's."""


def correlation_method(
    name: str,
    switches: Any,
    encoders: Encoders,
    optimizer: Optimizer,
    task: Task,
    term: Term | None = None,
) -> Method:
    """Deep CCA, with an extra ``term`` in the loss of its first stage."""
    modalities, D = encoders.modalities, encoders.feature_dim
    pairs = list(itertools.combinations(modalities, 2))
    k = _projections(switches, D)
    network = _networks(switches, modalities)
    users = {n: [m for m in modalities if network[m] == n] for n in network.values()}
    suffixes = ("", term.suffix) if term else ("",)
    trained = {n: [("encoder", n), *(("head", n + suffix) for suffix in suffixes)] for n in users}

    def feature(m: str, params, batch_stats, x, train: bool, counted=None) -> tuple[Any, Any]:
        n = network[m]
        return encoders.apply(n, params["encoder"][n], batch_stats[n], x, train, counted)

    def code(m: str, params, z: jax.Array) -> jax.Array:
        return apply_head(params["head"][network[m]], z)

    # ---- Stage 1 -----------------------------------------------------------------------------

    def loss_of(params, batch_stats, batch: Batch) -> tuple[jax.Array, tuple[Named, Named]]:
        """The loss of a training batch, the new statistics, and the codes."""
        seen, x, z, c, raw, counted = observed(batch), {}, {}, {}, {}, {}
        kinds, batch_stats = raw_or_features(encoders, batch["inputs"]), dict(batch_stats)
        for i, m in enumerate(modalities):
            x[m], everyone = batch["inputs"][m], batch["valid"] & seen[i].any()
            counted[m] = everyone if switches.pairs == "filled" else seen[i]
            if _has_mean(x[m]):
                x[m] = where_shown(seen[i], x[m], jax.lax.stop_gradient(params["head"]["fill"][m]))
            z[m], batch_stats[network[m]] = feature(m, params, batch_stats, x[m], True, counted[m])
            if not _has_mean(x[m]):
                z[m] = where_shown(seen[i], z[m], masked_mean(z[m], seen[i]))
            c[m] = code(m, params, z[m])
            vectors = x[m] if kinds[m] == INPUT else jax.lax.stop_gradient(z[m])
            raw[m] = vectors.reshape(vectors.shape[0], -1)
        loss = jnp.zeros(())
        for a, b in pairs:
            loss += correlation_loss(c[a], c[b], counted[a] & counted[b], switches.regularization)
        if term:
            heads = {m: params["head"][network[m] + term.suffix] for m in modalities}
            loss += term.loss(heads, c, raw, counted)
        return loss, (batch_stats, c)

    def update(state: TrainState, batch: Batch, info: StepInfo) -> tuple[TrainState, Metrics]:
        if len(batch["valid"]) <= k:
            raise UserError(
                f"batch_size={len(batch['valid'])} must be more than the {k} projections of "
                f"{name}, whose covariances are over a batch"
            )
        grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (stats, c)), gradients = grad(state.params, state.batch_stats, batch)
        occurs = dict(zip(modalities, observed(batch).any(1), strict=True))
        params = {group: dict(modules) for group, modules in state.params.items()}
        opt_state = {group: dict(modules) for group, modules in state.opt_state.items()}
        for n, those in users.items() if pairs or term else ():
            anybody = jnp.stack([occurs[m] for m in those]).any()
            for group, key in trained[n]:
                new = optimizer.step(
                    gradients[group][key],
                    state.opt_state[group][key],
                    state.params[group][key],
                    info,
                    where=anybody,
                )
                params[group][key], opt_state[group][key] = new
        logits = apply_head(params["head"]["svm"], jnp.concatenate([c[m] for m in modalities], 1))
        metrics = {
            "loss": loss,
            "accuracy": accuracy(logits, batch["label"], batch["valid"]),
            "examples": batch["valid"].sum(),
            "example_loss": shared_out(jnp.full(len(batch["valid"]), loss), batch["valid"]),
        }
        state = state.replace(params=params, batch_stats=stats, opt_state=opt_state)
        return state, metrics

    # ---- Stage 2, and prediction ---------------------------------------------------------------

    def means_of(variables: Named, batch: Batch) -> Named:
        """The values whose mean fills gaps: the inputs, or the features of tokens."""
        params, stats, x = variables["params"], variables["batch_stats"], batch["inputs"]
        return {
            m: x[m] if _has_mean(x[m]) else feature(m, params, stats, x[m], train=False)[0]
            for m in modalities
        }

    def coded(variables: Named, batch: Batch) -> Callable[[jax.Array], jax.Array]:
        """``(shown: bool[M, B]) -> float32[B, M k]``: the codes, with the fill where not shown."""
        params, stats = variables["params"], variables["batch_stats"]
        given, absent = {}, {}
        for m in modalities:
            x, fill = batch["inputs"][m], params["head"]["fill"][m][None]
            given[m] = code(m, params, feature(m, params, stats, x, train=False)[0])
            z = feature(m, params, stats, fill, train=False)[0] if _has_mean(x) else fill
            absent[m] = code(m, params, z)
        return lambda shown: jnp.concatenate(
            [where_shown(shown[i], given[m], absent[m]) for i, m in enumerate(modalities)], axis=1
        )

    find_means = observed_means(modalities, means_of)
    solve_svm = svm_stage(lambda v, b: coded(v, b)(observed(b)), task, switches.svm_cost)

    def fill(state: TrainState, epoch: int, reduce_training: ReduceTraining) -> TrainState:
        return (
            state if epoch else with_heads(state, fill=find_means(state.variables, reduce_training))
        )

    def solve(state: TrainState, epoch: int, reduce_training: ReduceTraining) -> TrainState:
        del epoch
        return solve_svm(fill(state, 0, reduce_training), reduce_training)

    def features(variables: dict[str, Any], batch: Batch) -> Named:
        params, stats = variables["params"], variables["batch_stats"]
        return {m: feature(m, params, stats, batch["inputs"][m], False)[0] for m in modalities}

    def predict(variables: dict[str, Any], batch: Batch) -> Prediction:
        codes, present = coded(variables, batch), batch["present"].T
        only = [present & (jnp.arange(len(modalities)) == i)[:, None] for i in range(len(present))]
        svm = variables["params"]["head"]["svm"]
        alone = jnp.stack([apply_head(svm, codes(shown)) for shown in only])
        return Prediction(alone, joint=apply_head(svm, codes(present)))

    def init(rng: jax.Array, batch: Batch) -> TrainState:
        encoder_rng, head_rng = jax.random.split(rng)
        encoder_params, batch_stats = encoders.init(encoder_rng, batch["inputs"])
        for m, n in network.items():
            _check_shared(m, n, encoders, encoder_params, batch)
        inputs, width = batch["inputs"], raw_widths(encoders, batch["inputs"])
        keys = {m: jax.random.split(encoders.key(head_rng, m)) for m in modalities}
        head = {m: init_head(keys[m][0], D, k, task.head_init) for m in modalities}
        if term:
            head |= {m + term.suffix: term.init_head(keys[m][1], k, width[m]) for m in modalities}
        shapes = {m: inputs[m].shape[1:] if _has_mean(inputs[m]) else (D,) for m in modalities}
        C = task.classes
        head["fill"] = {m: jnp.zeros(shape) for m, shape in shapes.items()}
        head["svm"] = {"kernel": jnp.zeros((len(modalities) * k, C)), "bias": jnp.zeros(C)}
        params = {"encoder": encoder_params, "head": head}
        opt_state = {
            group: {key: optimizer.init(module) for key, module in modules.items()}
            for group, modules in params.items()
        }
        return TrainState(params, batch_stats, opt_state)

    stages = (
        Stage("correlation", task.epochs, (Phase("correlation", update),), on_epoch=fill),
        Stage("svm", 1, (), on_epoch=solve),
    )
    C = task.classes
    return Method(name, modalities, C, init, stages, predict, joint_fusion, features=features)


def _has_mean(x: jax.Array) -> bool:
    """Whether inputs are numbers, and not tokens."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def _projections(switches: Any, D: int) -> int:
    """k, after checking the numbers of the switches."""
    for switch in ("regularization", "svm_cost"):
        if not switches[switch]:
            raise UserError(f"method.{switch} must be positive, not 0")
    if switches.projections > D:
        raise UserError(
            f"method.projections={switches.projections} must be at most feature_dim={D}: a linear "
            "layer cannot give more independent numbers"
        )
    return switches.projections or min(PUBLISHED_PROJECTIONS, D)


def _networks(switches: Any, modalities: Sequence[str]) -> dict[str, str]:
    """``{modality: the modality whose encoder and last layer it uses}``."""
    network = {m: m for m in modalities}
    if switches.third_encoder == "second" and len(modalities) > 2:
        network[modalities[2]] = modalities[1]
    return network


def _check_shared(m: str, n: str, encoders: Encoders, params: Named, batch: Batch) -> None:
    shapes = [
        (type(encoders.modules[name]), batch["inputs"][name].shape, jax.tree.map(jnp.shape, tree))
        for name, tree in ((m, params[m]), (n, params[n]))
    ]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"method.third_encoder=second sends '{m}' through the encoder of '{n}', which is of "
            "another kind or for another shape: set method.third_encoder=own"
        )
