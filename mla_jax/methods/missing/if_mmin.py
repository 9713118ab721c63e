"""IF-MMIN: imagination from modality-invariant features (Zuo et al., ICASSP 2023).

Stage 1, ``teacher``, on the complete data; all modalities share one encoder S:

    f = [z_1; ...; z_M],   H = [S(z_1); ...; S(z_M)],   logits = teacher([f; H])
    L = CE(logits, y) + mean over pairs m < n of CMD_5(S(z_m), S(z_n))

Stage 2, ``imagination``, on masked data, from the teacher's weights, of which a copy is frozen:

    u_1 = f + H,   u_{k+1} = dec_k(enc_k(u_k)) + H,   f' = T(last decoder's output)
    logits = classifier([l_1; ...; l_n])
    L = CE(logits, y) + MSE(t, f') + 100 MSE(H_whole, H)

CMD (``losses.central_moment_discrepancy``) makes the outputs of S for two modalities similar; f'
predicts t, the teacher's features of the inputs that are *not* seen (``imagination.py``); and H,
while S keeps learning, must match the frozen S on complete data.  MSE is a mean over all elements.

Source: ``ZhuoYulang/IF-MMIN``, ``models/{IFMMIN,utt_shared}_model.py``.  S is Linear, LeakyReLU,
Linear, LeakyReLU, D -> D -> D.  Unlike in MMIN's cascade the residuals are not summed up, and
there is no backward network (``autoencoders.invariant_autoencoder``).  The published script gives
the weight 100 to an option that the model does not have, so it stops at once; the option that it
does have is 1 by default.  5 blocks of widths 2/3, 1/3, 1/6 of M D; heads F -> D -> D -> C with
dropout 0.5, the teacher's 0.3; ``teacher_epochs`` 0 is the published share, 20 of 40.  ``released``
has that code's Kaiming initialisation of linear layers.

Any number of modalities; every unordered pair has a CMD term, so with one there is none.
A missing modality is a zero input to its encoder, and S runs on the result; one that the
data lack is left out of CMD and has no target.  While the teacher learns,
predictions are those of an untrained student.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.functional.autoencoders import (
    init_layers,
    init_residual,
    invariant_autoencoder,
    leaky_layers,
    perceptron,
)
from mla_jax.functional.losses import central_moment_discrepancy, cross_entropy
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods.base import Method, Task
from mla_jax.methods.joint import Features
from mla_jax.methods.missing import imagination
from mla_jax.methods.missing.blanks import joined
from mla_jax.methods.missing.imagination import Heads, Parts, Seen, Taught, known_error
from mla_jax.methods.missing.networks import start_of, widths

HANDLES_MISSING = True
SEES_HIDDEN = True
DEPENDS_ON_EPOCHS = "if_mmin trains its student after the last epoch of its teacher"
FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {
        **imagination.SWITCHES,
        "imagination_weight": 1.0,
        "invariance_weight": 100.0,
        "discrepancy_weight": 1.0,
        "moments": 5,
    },
    "released": {"initialization": "kaiming"},
}
CHOICES = imagination.CHOICES
LIMITS = {
    **imagination.LIMITS,
    "imagination_weight": imagination.WEIGHT,
    "invariance_weight": imagination.WEIGHT,
    "discrepancy_weight": imagination.WEIGHT,
    "moments": (1, 20),
}
TEACHER_SHARE = 20 / 40


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """IF-MMIN for any number of modalities; with one there is no discrepancy to reduce."""
    modalities = encoders.modalities
    D, MD = encoders.feature_dim, encoders.feature_dim * len(modalities)
    layers = widths("layers", switches.layers, [MD * r for r in imagination.PUBLISHED_WIDTHS])
    hidden = widths("head_layers", switches.head_layers, (D, D))
    start = start_of(switches.initialization, task)
    pairs = list(itertools.combinations(modalities, 2))

    def init_heads(rng: jax.Array) -> dict[str, Any]:
        rngs = jax.random.split(rng, 4)
        latent = switches.blocks * layers[-1]
        return {
            "teacher": init_layers(rngs[0], (2 * MD, *hidden, task.classes), start),
            "invariant": init_layers(rngs[1], (D, D, D), start),
            "forward": init_residual(rngs[2], MD, layers, switches.blocks, start),
            "classifier": init_layers(rngs[3], (latent, *hidden, task.classes), start),
        }

    def invariants(heads: Heads, features: Features) -> Features:
        return {m: leaky_layers(heads["invariant"], features[m]) for m in modalities}

    def teach(seen: Seen) -> tuple[jax.Array, jax.Array]:
        batch, z, H = seen.batch, seen.features, invariants(seen.heads, seen.features)
        both = jnp.concatenate([joined(z, modalities), joined(H, modalities)], axis=-1)
        logits = perceptron(seen.heads["teacher"], both, seen.drop("teacher"))
        losses = cross_entropy(logits, batch["label"])
        present = dict(zip(modalities, batch["present"].T, strict=True))
        for m, n in pairs:
            apart = central_moment_discrepancy(H[m], H[n], switches.moments, present[m], present[n])
            losses += switches.discrepancy_weight * apart / len(pairs)
        return losses, logits

    def imagine(seen: Seen, taught: Taught) -> tuple[jax.Array, jax.Array]:
        heads, batch = seen.heads, seen.batch
        f = joined(seen.features, modalities)
        H = joined(invariants(heads, seen.features), modalities)
        imagined, latent = invariant_autoencoder(heads["forward"], f, H)
        logits = perceptron(heads["classifier"], latent, seen.drop("classifier"))
        H_whole = joined(invariants(taught.heads, taught.everything), modalities)
        losses = cross_entropy(logits, batch["label"])
        losses += switches.imagination_weight * known_error(taught.complement, imagined, batch)
        losses += switches.invariance_weight * known_error(H_whole, H, batch)
        return losses, logits

    def classify(heads, features) -> jax.Array:
        H = joined(invariants(heads, features), modalities)
        _, latent = invariant_autoencoder(heads["forward"], joined(features, modalities), H)
        return perceptron(heads["classifier"], latent)

    parts = Parts(init_heads, teach, imagine, classify, shared=("invariant",))
    return imagination.imagination_method(
        "if_mmin", parts, TEACHER_SHARE, switches, encoders, optimizer, task
    )
