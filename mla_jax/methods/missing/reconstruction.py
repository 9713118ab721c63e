"""Code that AE and CRA share: an autoencoder on the joined features that fills in what is missing.

    c = [z_1; ...; z_M]                     z_m of a zero input where m is missing (``blanks.py``)
    c^ = autoencoder(c)
    x^_m = decoder_m(c^),   logits = classifier(c^)
    L = CE(logits, y) + w sum_m hidden_m mean_d (x^_md - x_md)^2

x_m is the raw vector of a modality (``targets.py``).  Only what masks hide is reconstructed:
visible modalities, and modalities that the data lack, add no term.

Decoders and classifier are perceptrons F -> D -> D -> out with ReLU and dropout.  In the published
code the encoders are such perceptrons too (d_m -> 128 -> 128 -> 128); here they are the run's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.functional.autoencoders import init_layers, perceptron
from mla_jax.functional.losses import cross_entropy
from mla_jax.functional.optimizers import Optimizer, StepInfo
from mla_jax.methods.base import Method, Phase, Stage, Task
from mla_jax.methods.joint import Learnt, gradient_step, initial_state, joint_fusion
from mla_jax.methods.missing.blanks import (
    features_or_blanks,
    joined,
    predict_from_features,
    whole,
)
from mla_jax.methods.missing.networks import check_dropout, example_dropout, start_of, widths
from mla_jax.methods.missing.targets import raw_vectors, raw_widths
from mla_jax.state import Batch, TrainState


class Autoencoder(NamedTuple):
    """The differences between AE and CRA."""

    init: Callable[[jax.Array, int, tuple[int, ...], str], Any]
    """``(rng, M D, widths, initialization) -> params``."""
    apply: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    """``(params, c: [B, M D]) -> (c^: [B, M D], latent)``."""


def reconstruction_method(
    name: str,
    autoencoder: Autoencoder,
    switches: Any,
    encoders: Encoders,
    optimizer: Optimizer,
    task: Task,
) -> Method:
    """The method with ``autoencoder``, for any number of modalities."""
    modalities, D, M = encoders.modalities, encoders.feature_dim, len(encoders.modalities)
    layers = widths("layers", switches.layers, (M * D * 2 / 3, M * D / 3))
    hidden_layers = widths("head_layers", switches.head_layers, (D, D))
    check_dropout("dropout", switches.dropout)
    start = start_of(switches.initialization, task)
    optimizers = {"encoder": optimizer, "head": optimizer}

    def init(rng: jax.Array, batch: Batch) -> TrainState:
        def init_heads(rng: jax.Array) -> dict[str, Any]:
            rng, autoencoder_rng, classifier_rng = jax.random.split(rng, 3)
            heads = {
                f"decoder_{m}": init_layers(
                    encoders.key(rng, m), (M * D, *hidden_layers, raw_width), start
                )
                for m, raw_width in raw_widths(encoders, batch["inputs"]).items()
            }
            heads["autoencoder"] = autoencoder.init(autoencoder_rng, M * D, layers, start)
            sizes = (M * D, *hidden_layers, task.classes)
            return {**heads, "classifier": init_layers(classifier_rng, sizes, start)}

        def init_state(rng: jax.Array) -> dict[str, jax.Array]:
            return {"dropout": jax.random.key_data(rng)}

        return initial_state(encoders, optimizers, init_heads, init_state, rng, batch)

    def learn(params: dict[str, Any], state: TrainState, batch: Batch, info: StepInfo) -> Learnt:
        heads, before = params["head"], state.batch_stats
        drop = example_dropout(state.method_state["dropout"], batch, info, switches.dropout)
        z, stats = features_or_blanks(encoders, params["encoder"], before, batch, train=True)
        code, _ = autoencoder.apply(heads["autoencoder"], joined(z, modalities))
        logits = perceptron(heads["classifier"], code, drop("classifier"))
        losses = cross_entropy(logits, batch["label"])
        data = whole(batch)
        variables = {"params": params, "batch_stats": before}
        truth = raw_vectors(encoders, variables, data["inputs"])
        hidden = data["present"] & ~batch["present"]
        for i, m in enumerate(modalities):
            network = f"decoder_{m}"
            error = jnp.square(perceptron(heads[network], code, drop(network)) - truth[m]).mean(-1)
            losses += switches.reconstruction_weight * jnp.where(hidden[:, i], error, 0)
        return Learnt(losses, logits, stats, state.method_state)

    def classify(heads, features) -> jax.Array:
        code, _ = autoencoder.apply(heads["autoencoder"], joined(features, modalities))
        return perceptron(heads["classifier"], code)

    update = gradient_step(learn, modalities, optimizers)
    stages = (Stage("joint", task.epochs, (Phase("joint", update),)),)
    predict = predict_from_features(encoders, classify)
    return Method(name, modalities, task.classes, init, stages, predict, joint_fusion)
