"""CPM-Net: cross partial multi-view networks (Zhang et al., NeurIPS 2019).

Every training example n has a free latent vector h_n in R^K.  The networks run *from* it *to* the
views, f_v(h) = W_v' h + b_v, so a missing view only removes a term (s_nv = 0):

    R_n      = sum_v s_nv || f_v(h_n) - x_nv ||^2
    M_nc     = mean over j != n with y_j = c of <h_n, h_j>
    Lambda_n = max(0, 1[argmax_c M_nc != y_n] + max_c M_nc - M_n,y_n)

There are two phases per batch, of five steps each: ``views`` minimises mean_n R_n over W, b with
the given optimiser; ``latents`` minimises sum_n R_n + lambda Lambda_n over the batch's h_n with
Adam, with moments and a number of steps per row.  A batch of all N examples is the published
algorithm; with smaller batches the latents of all other examples are fixed in the class means.  The
means include the examples that training has seen.

With ``scaling=range`` a view is (x - mean) / (max - min) over all its numbers in the training set,
as in ``util.py``; without it the view with most numbers dominates.  ``normalized`` divides
the loss of W, b by ``view_steps (1 + mean |h|^2)``, so that SGD with momentum stays stable; it
hardly changes Adam, and the published form lacks it.  ``retune`` adds the last stage of the paper
(section 2.3): only ``views``, at the learning rate of the last epoch; both code bases skip it.

At test time h starts from the same vector for every example and takes ``test_steps`` of Adam on
R; its logits are o_c = <h, mean of the training latents of class c>.  A modality's own logits are
those with only its view; an example without any view keeps the first h.

No encoder is trained: x_m is the raw vector of ``targets.py``, an input of at most 4096 numbers,
else the encoder's features as initialised or loaded (``init_from``).  Any number of views.

Source: ``util/model.py`` and ``test_hand.py`` of ``hanmenghan/CPM_Nets``, and GCNet's
``baseline-cpmnet``.  Both sum R over the batch where equation 8 has the mean;
with their Adam this is the same.  They start each h of the test set at random.  The optimiser of
W, b is the run's; published: ``optimizer.name=adam``, at 1e-2 (digits) or 1e-3 (GCNet).
``latent_dim`` 0 means feature_dim.  R and Lambda are added without scaling, so
views of many numbers, or unscaled ones, need a larger ``class_weight``.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.functional import latents as cpm
from mla_jax.functional.heads import HIGHEST, init_head
from mla_jax.functional.losses import accuracy, masked_mean, shared_out
from mla_jax.functional.optimizers import Optimizer, StepInfo
from mla_jax.methods.base import Method, Phase, ReduceTraining, Stage, Task
from mla_jax.methods.joint import joint_fusion
from mla_jax.methods.missing.targets import raw_vectors, raw_widths
from mla_jax.state import Batch, Metrics, Prediction, TrainState

FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {
        "latent_dim": 0,
        "class_weight": 10.0,
        "view_steps": 5,
        "latent_steps": 5,
        "latent_rate": 1e-2,
        "test_steps": 100,
        "test_rate": 1e-2,
        "normalized": True,
        "retune": False,
        "scaling": "range",
    },
    "released": {"latent_dim": 128, "class_weight": 1.0, "normalized": False},
    "released_gcnet": {
        "latent_dim": 128,
        "normalized": False,
        "test_steps": 500,
        "test_rate": 1e-3,
    },
}
CHOICES = {"scaling": ("range", "none")}
LIMITS = {
    "latent_dim": (0, 1_000_000),
    "class_weight": (0, math.inf),
    **dict.fromkeys(("view_steps", "latent_steps", "test_steps"), (1, 1_000_000)),
    **dict.fromkeys(("latent_rate", "test_rate"), (1e-9, 1e9)),
}
HANDLES_MISSING = True
TRAINS_ENCODERS = False

RETUNE_SHARE = 0.2  # of the epochs; the paper gives no number


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """CPM-Net for any number of views."""
    modalities, N, C = encoders.modalities, task.examples, task.classes
    K = switches.latent_dim or encoders.feature_dim

    def init(rng: jax.Array, batch: Batch) -> TrainState:
        encoder_rng, head_rng = jax.random.split(rng)
        encoder_params, batch_stats = encoders.init(encoder_rng, batch["inputs"])
        widths = raw_widths(encoders, batch["inputs"])
        heads = {
            m: init_head(encoders.key(head_rng, m), K, widths[m], task.head_init)
            for m in modalities
        }
        bound = math.sqrt(6 / (N + K))
        table, start = (
            jax.random.uniform(jax.random.fold_in(rng, i), shape, jnp.float32, -bound, bound)
            for i, shape in ((2, (N, K)), (3, (K,)))
        )
        opt_state = {m: optimizer.init(head) for m, head in heads.items()}
        ranges = {m: {"mean": jnp.zeros(()), "range": jnp.ones(())} for m in modalities}
        return TrainState(
            {
                "encoder": encoder_params,
                "head": {
                    **heads,
                    "latent": {"means": jnp.zeros((C, K)), "start": start},
                    "scaling": ranges,
                },
            },
            batch_stats,
            {
                "encoder": dict.fromkeys(modalities, ()),
                "head": {**opt_state, "latent": (), "scaling": ()},
            },
            {"latents": table, "label": jnp.full((N,), -1, jnp.int32), **cpm.no_moments(N, K)},
        )

    def views_of(variables: dict[str, Any], batch: Batch) -> list[jax.Array]:
        x = raw_vectors(encoders, variables, batch["inputs"])
        by = variables["params"]["head"]["scaling"]
        return [(x[m] - by[m]["mean"]) / by[m]["range"] for m in modalities]

    def look(variables: dict[str, Any], carry: dict[str, Any], batch: Batch) -> dict[str, Any]:
        x = raw_vectors(encoders, variables, batch["inputs"])
        return {
            m: _looked_at(carry[m], x[m], batch["present"][:, i]) for i, m in enumerate(modalities)
        }

    def scale(state: TrainState, epoch: int, reduce_training: ReduceTraining) -> TrainState:
        if epoch or switches.scaling == "none":
            return state
        nothing = {"sum": 0.0, "count": 0.0, "low": jnp.inf, "high": -jnp.inf}
        nothing = jax.tree.map(jnp.float32, dict.fromkeys(modalities, nothing))
        found = reduce_training(look, state.variables, nothing)
        ranges = {
            m: {
                "mean": of["sum"] / jnp.maximum(of["count"], 1),
                "range": jnp.where(of["high"] > of["low"], of["high"] - of["low"], 1),
            }
            for m, of in found.items()
        }
        return state.replace(params=_with_heads(state.params, {"scaling": ranges}))

    def learn_views(state: TrainState, batch: Batch, info: StepInfo) -> tuple[TrainState, Metrics]:
        x, present, valid = views_of(state.variables, batch), batch["present"], batch["valid"]
        h = state.method_state["latents"][batch["index"]]
        occurs = dict(zip(modalities, present.any(0), strict=True))
        size = (
            switches.view_steps * (1 + masked_mean((h**2).sum(1), valid))
            if switches.normalized
            else 1
        )

        def objective(heads):
            losses = cpm.reconstruction([heads[m] for m in modalities], h, x, present)
            losses = shared_out(losses, valid)
            return losses.mean() / size, losses

        def step(carry, _):
            heads, opt_state = carry
            (_, losses), gradients = jax.value_and_grad(objective, has_aux=True)(heads)
            new = {
                m: optimizer.step(gradients[m], opt_state[m], heads[m], info, where=occurs[m])
                for m in modalities
            }
            return ({m: new[m][0] for m in new}, {m: new[m][1] for m in new}), losses

        start = tuple(
            {m: t["head"][m] for m in modalities} for t in (state.params, state.opt_state)
        )
        (heads, opt_state), losses = jax.lax.scan(step, start, length=switches.view_steps)
        scores = class_logits(state.params, h)
        state = state.replace(
            params=_with_heads(state.params, heads),
            opt_state=_with_heads(state.opt_state, opt_state),
        )
        return state, _metrics(losses[0], scores, batch)

    def learn_views_further(
        state: TrainState, batch: Batch, info: StepInfo
    ) -> tuple[TrainState, Metrics]:
        return learn_views(state, batch, info._replace(epoch=task.epochs - 1))

    def learn_latents(
        state: TrainState, batch: Batch, info: StepInfo
    ) -> tuple[TrainState, Metrics]:
        del info
        x, present, valid = views_of(state.variables, batch), batch["present"], batch["valid"]
        heads = [state.params["head"][m] for m in modalities]
        table, rows = state.method_state, batch["index"]
        written = jnp.where(valid, rows, N)  # N is not a row: writes to it are dropped
        label = jnp.where(valid, batch["label"], -1)
        rest = table["label"].at[written].set(-1, mode="drop")
        rest = cpm.class_sums(table["latents"], rest, C)

        def objective(h):
            scores = cpm.class_scores(h, label, rest + cpm.class_sums(h, label, C))
            losses = cpm.reconstruction(heads, h, x, present)
            losses += switches.class_weight * cpm.class_loss(scores, batch["label"])
            losses = jnp.where(valid, losses, 0)
            return losses.sum(), (losses, scores)

        def step(carry, _):
            h, moments = carry
            gradient, found = jax.grad(objective, has_aux=True)(h)
            return cpm.adam_step(gradient, moments, h, switches.latent_rate), found

        moments = {k: table[k][rows] for k in ("first", "second", "count")}
        start = (table["latents"][rows], moments)
        (h, moments), (losses, scores) = jax.lax.scan(step, start, length=switches.latent_steps)
        new = {"latents": h, "label": batch["label"], **moments}
        means = (rest + cpm.class_sums(h, label, C)).means()
        latent = {**state.params["head"]["latent"], "means": means}
        state = state.replace(
            params=_with_heads(state.params, {"latent": latent}),
            method_state={k: table[k].at[written].set(new[k], mode="drop") for k in table},
        )
        return state, _metrics(shared_out(losses[0], valid), scores[0], batch)

    def class_logits(params: dict[str, Any], h: jax.Array) -> jax.Array:
        return jnp.matmul(h, params["head"]["latent"]["means"].T, precision=HIGHEST)

    def predict(variables: dict[str, Any], batch: Batch) -> Prediction:
        params, observed = variables["params"], batch["present"]
        heads = [params["head"][m] for m in modalities]
        normal = cpm.normal_equations(heads, views_of(variables, batch))
        how = (params["head"]["latent"]["start"], switches.test_steps, switches.test_rate)
        alone = jax.vmap(lambda *of_one: cpm.infer(cpm.Normal(*of_one[:2]), of_one[2], *how))(
            normal.gram[:, None], normal.target[:, None], observed.T[:, :, None]
        )
        h = jnp.concatenate([cpm.infer(normal, observed, *how)[None], alone])
        logits = jax.vmap(class_logits, in_axes=(None, 0))(params, h)
        return Prediction(logits[1:], joint=logits[0])

    def describe(state: TrainState) -> Sequence[str]:
        sizes = [f"{m} {state.params['head'][m]['bias'].size}" for m in modalities]
        return [f"numbers of each view: {', '.join(sizes)}; no encoder is trained"]

    phases = (Phase("views", learn_views), Phase("latents", learn_latents))
    stages: tuple[Stage, ...] = (Stage("latents", task.epochs, phases, scale),)
    if switches.retune:
        retune = (Phase("views", learn_views_further),)
        stages += (Stage("retune", max(1, round(RETUNE_SHARE * task.epochs)), retune),)
    return Method("cpm_net", modalities, C, init, stages, predict, joint_fusion, describe)


def _looked_at(seen: dict[str, jax.Array], x: jax.Array, present: jax.Array) -> dict[str, Any]:
    """Adds ``x: [B, F]`` to the sum, count, minimum and maximum of all numbers of a view."""
    mask = present[:, None]
    return {
        "sum": seen["sum"] + jnp.where(mask, x, 0).sum(),
        "count": seen["count"] + present.sum() * x.shape[1],
        "low": jnp.minimum(seen["low"], jnp.where(mask, x, jnp.inf).min()),
        "high": jnp.maximum(seen["high"], jnp.where(mask, x, -jnp.inf).max()),
    }


def _with_heads(tree: dict[str, Any], heads: dict[str, Any]) -> dict[str, Any]:
    return {**tree, "head": {**tree["head"], **heads}}


def _metrics(losses: jax.Array, scores: jax.Array, batch: Batch) -> Metrics:
    """The metrics before the first step of the phase."""
    return {
        "loss": losses.mean(),
        "accuracy": accuracy(scores, batch["label"], batch["valid"]),
        "examples": batch["valid"].sum(),
        "example_loss": losses,
    }
