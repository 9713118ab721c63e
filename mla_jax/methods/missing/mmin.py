"""MMIN: the missing modality imagination network (Zhao, Li and Jin, ACL 2021).

Stage 1, ``teacher``, on complete data:   logits = teacher([z_1; ...; z_M]),   L = CE(logits, y)

Stage 2, ``imagination``, on masked data, with the teacher frozen:

    h = [z_1; ...; z_M]             z_m of a zero input where m is missing (``blanks.py``)
    h', l = CRA_f(h),   h'' = CRA_b(h'),   logits = classifier(l)
    L = CE(logits, y) + lambda_1 MSE(t, h') + lambda_2 MSE(sg(h), h'')

h' predicts t, the teacher's features of the inputs that are *not* seen (``imagination.py``), and
h'' must recover h, which gets no gradient as a target (sg).  l joins the n bottlenecks of
CRA_f and is the classifier's only input.  MSE is a mean over all elements.

Source: ``AIM3-RUC/MMIN``, branch master, ``models/mmin_model.py``.  CRA is
``autoencoders.residual_autoencoder``: 5 blocks of widths 2/3, 1/3, 1/6 of M D (``layers`` ();
256, 128, 64 as published); the heads are F -> D -> D -> C with dropout 0.5, the teacher's 0.3.
``teacher_epochs`` 0 is the published share, 20 of 60 epochs.  ``released`` has that code's Kaiming
initialisation; GCNet's port, which the MLA paper's Table 2 seems to quote, has
``initialization=normal``, and as many epochs for the teacher as for the student.  The published
encoders (LSTM and TextCNN, or GCNet's perceptrons) are replaced by the run's.

Any number of modalities.  A missing one is a zero input to its encoder; one that the data lack
has no target.  While the teacher learns, predictions are those of an untrained student.
"""

from typing import Any

import jax

from mla_jax.encoders import Encoders
from mla_jax.functional.autoencoders import (
    init_layers,
    init_residual,
    perceptron,
    residual_autoencoder,
)
from mla_jax.functional.losses import cross_entropy
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods.base import Method, Task
from mla_jax.methods.missing import imagination
from mla_jax.methods.missing.blanks import joined
from mla_jax.methods.missing.imagination import Parts, Seen, Taught, known_error
from mla_jax.methods.missing.networks import start_of, widths

HANDLES_MISSING = True
SEES_HIDDEN = True
DEPENDS_ON_EPOCHS = "mmin trains its student after the last epoch of its teacher"
FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {**imagination.SWITCHES, "imagination_weight": 4.0, "cycle_weight": 2.0},
    "released": {"initialization": "kaiming"},
}
CHOICES = imagination.CHOICES
LIMITS = {
    **imagination.LIMITS,
    "imagination_weight": imagination.WEIGHT,
    "cycle_weight": imagination.WEIGHT,
}
TEACHER_SHARE = 20 / 60


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """MMIN for any number of modalities; with one, its features are predicted from a zero input."""
    modalities = encoders.modalities
    D, MD = encoders.feature_dim, encoders.feature_dim * len(modalities)
    layers = widths("layers", switches.layers, [MD * r for r in imagination.PUBLISHED_WIDTHS])
    hidden = widths("head_layers", switches.head_layers, (D, D))
    start = start_of(switches.initialization, task)

    def init_heads(rng: jax.Array) -> dict[str, Any]:
        rngs = jax.random.split(rng, 4)
        latent = switches.blocks * layers[-1]
        cascade = (MD, layers, switches.blocks, start)
        return {
            "teacher": init_layers(rngs[0], (MD, *hidden, task.classes), start),
            "forward": init_residual(rngs[1], *cascade),
            "backward": init_residual(rngs[2], *cascade),
            "classifier": init_layers(rngs[3], (latent, *hidden, task.classes), start),
        }

    def teach(seen: Seen) -> tuple[jax.Array, jax.Array]:
        drop = seen.drop("teacher")
        logits = perceptron(seen.heads["teacher"], joined(seen.features, modalities), drop)
        return cross_entropy(logits, seen.batch["label"]), logits

    def imagine(seen: Seen, taught: Taught) -> tuple[jax.Array, jax.Array]:
        heads, batch = seen.heads, seen.batch
        h = joined(seen.features, modalities)
        imagined, latent = residual_autoencoder(heads["forward"], h)
        returned, _ = residual_autoencoder(heads["backward"], imagined)
        logits = perceptron(heads["classifier"], latent, seen.drop("classifier"))
        there = known_error(taught.complement, imagined, batch)
        back = known_error(jax.lax.stop_gradient(h), returned, batch)
        losses = cross_entropy(logits, batch["label"])
        losses += switches.imagination_weight * there + switches.cycle_weight * back
        return losses, logits

    def classify(heads, features) -> jax.Array:
        _, latent = residual_autoencoder(heads["forward"], joined(features, modalities))
        return perceptron(heads["classifier"], latent)

    parts = Parts(init_heads, teach, imagine, classify)
    return imagination.imagination_method(
        "mmin", parts, TEACHER_SHARE, switches, encoders, optimizer, task
    )
