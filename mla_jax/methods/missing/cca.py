"""CCA and a linear SVM: canonical correlation analysis of every pair, without gradients.

For each pair (m, n), CCA finds the k directions along which the two views correlate most
(``functional/correlation.py``).  They give the code of an example, and a linear SVM classifies it:

    c = [(x_m - mean_m) A_mn, (x_n - mean_n) B_mn for every pair],   logits = W c + b

A view x_m is the flattened input if that is at most 4096 floating-point numbers, and otherwise
the features of the encoder as initialised or loaded: it is not trained (``targets.py``).

Source: GCNet's baseline (``baseline-cca/cca.py``, k = 10 of a grid to 20; r = 1e-4; ``LinearSVC``
with C = 0.01).  A missing entry is filled with the mean, so it counts as 0 in the covariances and
in the code.  Neither labels nor masks enter the directions, and filling shrinks the covariances:
with a share p of either view missing, a view's by 1 - p and a pair's by (1 - p)^2.  This is as
published; ``pairs=present`` uses, for each pair, only the examples that have both.

``scaling`` sets the scale of r.  ``standard``: features have variance 1, so that r has one
meaning for all views (ours).  ``none``: the features as they are, ``released``.  ``range``: a view
divided by the difference of its largest and smallest value, the other half of the published grid.
Otherwise correlations do not depend on scaling.  Sums are in float32, so r is at least a millionth
of a feature's variance; the rest is float64 on the host.

There is one pair per unordered pair of modalities, in alphabetical order.  A single modality is
paired with itself, and r makes its directions the leading principal components.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mla_jax.encoders import Encoders
from mla_jax.errors import UserError
from mla_jax.functional.correlation import ROUNDING, covariances, deviations, directions
from mla_jax.functional.heads import HIGHEST, apply_head
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods.base import Method, ReduceTraining, Stage, Task
from mla_jax.methods.joint import joint_fusion
from mla_jax.methods.missing.mean_fill import observed, observed_means, where_shown
from mla_jax.methods.missing.svm_stage import svm_stage, with_heads
from mla_jax.methods.missing.targets import raw_vectors, raw_widths
from mla_jax.state import Batch, Prediction, TrainState

HANDLES_MISSING = True
TRAINS_ENCODERS = False
FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {
        "projections": 0,
        "regularization": 1e-4,
        "scaling": "standard",
        "pairs": "filled",
        "svm_cost": 0.01,
    },
    "released": {"scaling": "none"},
}
CHOICES = {"scaling": ("standard", "none", "range"), "pairs": ("filled", "present")}
LIMITS = {
    "projections": (0, 4096),
    "regularization": (0, math.inf),
    "svm_cost": (0, math.inf),
}
DEPENDS_ON_EPOCHS = "cca is solved in one epoch, whatever their number"
PUBLISHED_PROJECTIONS = 10


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """CCA for any number of modalities; ``projections=0``: 10, or the smallest width if less."""
    modalities = encoders.modalities
    names = sorted(modalities)
    pairs = list(itertools.combinations(names, 2)) or [(names[0], names[0])]
    for switch in ("regularization", "svm_cost"):
        if not switches[switch]:
            raise UserError(f"method.{switch} must be positive, not 0")

    def views(variables: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
        return raw_vectors(encoders, variables, batch["inputs"])

    def centred(variables: dict[str, Any], batch: Batch, shown: jax.Array) -> dict[str, jax.Array]:
        """The views minus their means; 0 where ``shown: bool[M, B]`` is False."""
        mean, x = variables["params"]["head"]["fill"], views(variables, batch)
        return {m: where_shown(shown[i], x[m] - mean[m], 0) for i, m in enumerate(modalities)}

    def code(variables: dict[str, Any], batch: Batch, shown: jax.Array) -> jax.Array:
        """``float32[B, K]``: k numbers for each modality of each pair."""
        x = centred(variables, batch, shown)
        projections = variables["params"]["head"]["projections"]
        return jnp.concatenate(
            [
                jnp.matmul(x[m], projections[_name(pair)][m], precision=HIGHEST)
                for pair in pairs
                for m in dict.fromkeys(pair)
            ],
            axis=1,
        )

    find_means = observed_means(modalities, views)
    solve_svm = svm_stage(lambda v, batch: code(v, batch, observed(batch)), task, switches.svm_cost)

    def sum_up(variables: dict[str, Any], carry: Any, batch: Batch) -> Any:
        """Adds a batch to each pair's counts, sums and products, and to each view's extremes."""
        seen = observed(batch)
        x, sums, extremes = centred(variables, batch, seen), {}, {}
        for m in modalities:
            filled = x[m] + variables["params"]["head"]["fill"][m]
            least, greatest = carry["extremes"][m]
            extremes[m] = jnp.minimum(least, filled.min()), jnp.maximum(greatest, filled.max())
        for pair in pairs:
            counted = batch["valid"]
            if switches.pairs == "present":
                counted = seen[modalities.index(pair[0])] & seen[modalities.index(pair[1])]
            a, b = (where_shown(counted, x[m], 0) for m in pair)
            products = (jnp.matmul(u.T, v, precision=HIGHEST) for u, v in ((a, a), (b, b), (a, b)))
            added = counted.sum(), a.sum(0), b.sum(0), *products
            sums[_name(pair)] = jax.tree.map(jnp.add, carry["sums"][_name(pair)], added)
        return {"sums": sums, "extremes": extremes}

    def solve(state: TrainState, epoch: int, reduce_training: ReduceTraining) -> TrainState:
        del epoch
        state = with_heads(state, fill=find_means(state.variables, reduce_training))
        head = state.params["head"]
        width = {m: len(head["fill"][m]) for m in modalities}
        nothing = {
            "sums": {
                _name((a, b)): (
                    jnp.zeros((), int),
                    *map(jnp.zeros, (width[a], width[b])),
                    *map(jnp.zeros, ((width[a],) * 2, (width[b],) * 2, (width[a], width[b]))),
                )
                for a, b in pairs
            },
            "extremes": {m: (jnp.array(jnp.inf), jnp.array(-jnp.inf)) for m in modalities},
        }
        found = jax.device_get(reduce_training(sum_up, state.variables, nothing))
        means = jax.device_get(head["fill"])
        projections = {}
        for a, b in pairs:
            kept = head["projections"][_name((a, b))]
            view_a, view_b, cross = covariances(*found["sums"][_name((a, b))])
            unit_a, unit_b = deviations(view_a, means[a]), deviations(view_b, means[b])
            A, B, _ = directions(
                view_a / np.outer(unit_a, unit_a),
                view_b / np.outer(unit_b, unit_b),
                cross / np.outer(unit_a, unit_b),
                kept[a].shape[1],
                *(_relative(u, found["extremes"][m]) for u, m in ((unit_a, a), (unit_b, b))),
            )
            projections[_name((a, b))] = {a: A / unit_a[:, None], b: B / unit_b[:, None]}
        return solve_svm(with_heads(state, projections=projections), reduce_training)

    def _relative(deviation: np.ndarray, extremes: tuple[float, float]) -> np.ndarray | float:
        """r, in units of each feature's variance."""
        if switches.scaling == "standard":
            return switches.regularization
        extent = float(extremes[1]) - float(extremes[0]) if switches.scaling == "range" else 1.0
        return np.maximum(switches.regularization * (extent / deviation) ** 2, ROUNDING)

    def init(rng: jax.Array, batch: Batch) -> TrainState:
        encoder_params, batch_stats = encoders.init(jax.random.split(rng)[0], batch["inputs"])
        width = raw_widths(encoders, batch["inputs"])
        narrowest = min(names, key=lambda m: width[m])
        k = switches.projections or min(PUBLISHED_PROJECTIONS, width[narrowest])
        if k > width[narrowest]:
            raise UserError(
                f"method.projections={k} is more than the {width[narrowest]} numbers of "
                f"'{narrowest}': CCA has at most that many directions"
            )
        projections = {_name(pair): {m: jnp.zeros((width[m], k)) for m in pair} for pair in pairs}
        codes = k * sum(len(of_pair) for of_pair in projections.values())
        head = {
            "fill": {m: jnp.zeros(width[m]) for m in modalities},
            "projections": projections,
            "svm": {
                "kernel": jnp.zeros((codes, task.classes)),
                "bias": jnp.zeros(task.classes),
            },
        }
        params = {"encoder": encoder_params, "head": head}
        opt_state = {
            group: {key: optimizer.init(module) for key, module in modules.items()}
            for group, modules in params.items()
        }
        return TrainState(params, batch_stats, opt_state)

    def predict(variables: dict[str, Any], batch: Batch) -> Prediction:
        present = batch["present"].T
        svm = variables["params"]["head"]["svm"]
        only = [present & (jnp.arange(len(modalities)) == i)[:, None] for i in range(len(present))]
        alone, together = (
            [apply_head(svm, code(variables, batch, shown)) for shown in several]
            for several in (only, [present])
        )
        return Prediction(jnp.stack(alone), joint=together[0])

    stage = Stage("closed_form", 1, (), on_epoch=solve)
    common = ("cca", modalities, task.classes, init, (stage,), predict, joint_fusion)
    return Method(*common, describe=_description)


def _name(pair: tuple[str, str]) -> str:
    return "+".join(dict.fromkeys(pair))


def _description(state: TrainState) -> list[str]:
    widths = {m: len(mean) for m, mean in sorted(state.params["head"]["fill"].items())}
    pairs = state.params["head"]["projections"]
    k = next(iter(next(iter(pairs.values())).values())).shape[1]
    views = ", ".join(f"{m} ({width})" for m, width in widths.items())
    return [f"{k} projections of each view of each pair: {views}"]
