# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The projection in your own training loop
#
# MLA trains one modality after the other, and all modalities share one head. A step of the head for
# one modality can undo what the head has learned for the modality before. MLA therefore multiplies
# the gradient of the head by a matrix P. P is updated from the mean feature of each modality that
# the head has seen, and removes the directions of these means from the gradient (section 3.2 of the
# paper, equations 2 and 3).
#
# `mla_jax.orthogonal_projection` is this part alone, as an optax transformation. This notebook uses
# it in a loop of its own in Flax and optax, without the trainer of mla_jax.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import mla_jax
from mla_jax.datasets import load_dataset

FEATURES, BATCH, EPOCHS, SEED = 32, 64, 5, 0

# %% [markdown]
# ## Data and model
#
# Two sets of features of the same handwritten numerals. Each has an encoder, and both share a
# linear head.

# %%
MODALITIES = ("profile", "zernike")
train = load_dataset(mla_jax.load_config("configs/mfeat.py").dataset, MODALITIES).splits["train"]
inputs = {m: np.asarray(train.inputs[m]) for m in MODALITIES}
label = np.asarray(train.label)


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(FEATURES)(nn.relu(nn.Dense(64)(x))))


encoder, head = Encoder(), nn.Dense(10)
keys = jax.random.split(jax.random.key(SEED), len(MODALITIES) + 1)
theta = {m: encoder.init(key, inputs[m][:1]) for m, key in zip(MODALITIES, keys, strict=False)}
phi = head.init(keys[-1], jnp.zeros((1, FEATURES)))

# %% [markdown]
# ## The optimisers
#
# The projection comes first in the chain, before momentum and weight decay if there are any. It
# acts on every kernel with `FEATURES` rows: here, on that of the head. Other leaves pass unchanged.

# %%
encoder_tx = optax.sgd(0.1)
head_tx = optax.chain(mla_jax.orthogonal_projection(FEATURES), optax.sgd(0.1))
encoder_state = {m: encoder_tx.init(theta[m]) for m in MODALITIES}
head_state = head_tx.init(phi)

# %% [markdown]
# ## A step for one modality
#
# `update` takes two more arguments: the mean feature of this batch, from which P is updated, and
# `alpha`, for which `mla_jax.alpha_schedule` is the choice of the published code.
#
# The step also measures what it does to the modality before: how much the logits of that modality
# change when the head moves. For comparison it does the same with the plain gradient, scaled to the
# length of the projected one. So both start from the same head and are equally long. Only their
# directions differ.


# %%
def loss(theta_m, phi, x, y):
    h = encoder.apply(theta_m, x)
    losses = optax.softmax_cross_entropy_with_integer_labels(head.apply(phi, h), y)
    return losses.mean(), h.mean(0)


def measured(step, theta_m, phi, x, y, before):
    """What a step of the head does to its own modality, and to the one before."""
    moved = optax.apply_updates(phi, step)
    h = encoder.apply(*before)
    shift = head.apply(moved, h) - head.apply(phi, h)
    return {
        "disturbance": jnp.sqrt(jnp.mean(shift**2)),
        "gain": loss(theta_m, phi, x, y)[0] - loss(theta_m, moved, x, y)[0],
    }


@jax.jit
def step(theta_m, encoder_state, phi, head_state, x, y, alpha, before):
    gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
    (g_theta, g_phi), mean = gradient(theta_m, phi, x, y)
    updates, head_state = head_tx.update(g_phi, head_state, phi, feature_mean=mean, alpha=alpha)

    length = optax.global_norm(updates) / optax.global_norm(g_phi)
    plain = jax.tree.map(lambda g: -length * g, g_phi)
    both = {"projected": updates, "plain": plain}
    found = {n: measured(one, theta_m, phi, x, y, before) for n, one in both.items()}

    phi = optax.apply_updates(phi, updates)
    updates, encoder_state = encoder_tx.update(g_theta, encoder_state)
    return optax.apply_updates(theta_m, updates), encoder_state, phi, head_state, found


# %% [markdown]
# ## The loop

# %%
rng, found = np.random.default_rng(SEED), []
batches = len(label) // BATCH
for _ in range(EPOCHS):
    order = rng.permutation(len(label))[: batches * BATCH].reshape(batches, BATCH)
    for number, chosen in enumerate(order):
        alpha = mla_jax.alpha_schedule(number, batches)
        for m, last in zip(MODALITIES, reversed(MODALITIES), strict=True):
            theta[m], encoder_state[m], phi, head_state, one = step(
                theta[m], encoder_state[m], phi, head_state, inputs[m][chosen], label[chosen],
                alpha, (theta[last], inputs[last][chosen]),
            )  # fmt: skip
            found.append(one)
found = jax.tree.map(lambda *values: np.array(values), *found)

# %% [markdown]
# ## Does the head forget less?
#
# * `disturbance` is how much a step of the head changes the logits of the modality before (root
#   mean square over the examples and the classes). What does not change is not forgotten.
# * `gain` is how much the step lowers the loss of its own modality.

# %%
table = {n: {what: values.mean() for what, values in one.items()} for n, one in found.items()}
print(f"{'':<10} {'disturbance':>12} {'gain':>8}")
for name, row in table.items():
    print(f"{name:<10} {row['disturbance']:12.5f} {row['gain']:8.5f}")
for what in ("disturbance", "gain"):
    share = table["projected"][what] / table["plain"][what]
    print(f"{what} of the projected step: {share:.0%} of that of the plain one")

# %% [markdown]
# At the same length the projected step disturbs the modality before less. It also gains less for
# its own modality, since the features of both have directions in common. The disturbance falls more
# than the gain. P only shrinks, so the steps of the head become shorter too.
#
# A change of the logits can be for the better: a step for one modality often helps the other.
# [Telemetry](../telemetry.md) therefore measures losses, in whole runs and with several seeds. It
# says what the projection prevents, and what it does not.
#
# The last cell checks what this page says.

# %%
disturbance, gain = ({n: row[what] for n, row in table.items()} for what in ("disturbance", "gain"))
assert disturbance["projected"] < 0.6 * disturbance["plain"], disturbance
assert 0 < gain["projected"] < gain["plain"], gain
share = {what: table["projected"][what] / table["plain"][what] for what in ("disturbance", "gain")}
assert share["disturbance"] < share["gain"], share
