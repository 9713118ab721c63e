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
# # Missing modalities with mfeat
#
# mfeat has six sets of features of the same handwritten numerals. This notebook takes three of them
# as modalities, hides half of all entries, trains, and then looks at what a model can do with the
# modalities that are left.

# %%
import matplotlib.pyplot as plt
import numpy as np

import mla_jax

MODALITIES = ("profile", "fourier", "zernike")
EPOCHS = 10


def quiet(line):
    """Takes the place of `print`, which would show one line per epoch."""


def train(method, missing):
    config = mla_jax.load_config(
        "configs/mfeat.py",
        {"epochs": EPOCHS, "missing.test": 0.0},
        {"method": method, "modalities": "+".join(MODALITIES), "missing": str(missing)},
    )
    return mla_jax.train(config, f"runs/missing/{method}-{missing}", say=quiet)


# %% [markdown]
# ## Train
#
# `missing=0.5` hides half of all entries by the rule `rate`, which leaves every example at least
# one modality. All runs get the same masks. Here `missing.test` is 0: the test split stays
# complete, so that we can hide parts of it below.
#
# Three runs: MLA and `concat` with gaps in training, and `concat` on complete data.

# %%
runs = {
    "mla, gaps": train("mla", 0.5),
    "concat, gaps": train("concat", 0.5),
    "concat, complete": train("concat", 0),
}

# %% [markdown]
# ## Every subset of the modalities
#
# `run.subsets()` has the test accuracy for each subset, as if every example had only the modalities
# of the subset. `incomplete` pools all subsets but the whole.

# %%
subsets = {name: run.subsets() for name, run in runs.items()}
print(f"{'':<24} " + "  ".join(subsets))
for subset in subsets["mla, gaps"]:
    row = "  ".join(f"{found[subset]['accuracy']:>{len(n)}.3f}" for n, found in subsets.items())
    print(f"{subset:<24} {row}")

# %% [markdown]
# `concat` that was trained on complete data has never seen the zeros that stand for a missing
# modality, and loses much with one modality. Gaps in training fix most of this. MLA predicts from
# each modality by itself and leaves a missing one out.
#
# ## By rate
#
# `run.predict` takes any inputs, and `present` says which modalities each example has. Here each
# modality is hidden with probability p, and one modality of each example, drawn at random, is kept.

# %%
test = runs["concat, complete"].dataset().splits["test"]  # without masks
rng = np.random.default_rng(0)
shape = (len(test.label), len(MODALITIES))
kept = np.arange(len(MODALITIES)) == rng.integers(len(MODALITIES), size=shape[0])[:, None]
drawn = rng.random(shape)

probabilities = (0, 0.25, 0.5, 0.75, 1)
accuracy = {name: [] for name in runs}
for p in probabilities:
    present = kept | (drawn >= p)
    for name, run in runs.items():
        classes = run.predict(test.inputs, present).classes
        accuracy[name].append(float((classes == test.label).mean()))
for name, row in accuracy.items():
    print(f"{name:<17}", "  ".join(f"{value:.3f}" for value in row))

# %%
figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
for name, row in accuracy.items():
    axis.plot(probabilities, row, marker="o", label=name)
axis.set(xlabel="probability p that a modality is hidden", ylabel="test accuracy")
axis.legend()
figure.savefig("missing.png", dpi=120)

# %% [markdown]
# ## What to do next
#
# * Compare the twelve methods of the MLA paper's second experiment:
#   `python -m mla_jax.compare --config=configs/mfeat.py --methods=table2 --missing=0,0.3,0.5,0.7`.
# * [Missing modalities](../missing.md) has the rules for masks, the methods, and what was measured.
# * Your own data may lack modalities: see [Your own data](../how-to/own-data.md).
#
# The last cell checks what this page says.

# %%
incomplete = {name: found["incomplete"]["accuracy"] for name, found in subsets.items()}
assert incomplete["concat, gaps"] > incomplete["concat, complete"] + 0.03, incomplete
assert incomplete["mla, gaps"] > incomplete["concat, complete"] + 0.03, incomplete
for name, row in accuracy.items():
    assert row[-1] < row[0], f"{name} loses nothing when modalities are hidden: {row}"
