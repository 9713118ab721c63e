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
# # See modality laziness and mend it in five minutes
#
# A model that is trained on two modalities together often learns one of them badly. The joint loss
# falls as soon as one modality is good enough, and the gradient of the other becomes small. This is
# called modality laziness.
#
# This notebook shows it on the embedded digits: pictures of digits and recordings of spoken digits.
# It trains three small models on the CPU:
#
# * `late_fusion`, a model per modality: it gives the ceiling of each,
# * `concat`, one head on the joined features,
# * `mla`, which trains one modality at a time.

# %%
import matplotlib.pyplot as plt

import mla_jax

EPOCHS = 6


def quiet(line):
    """Takes the place of `print`, which would show one line per epoch."""


def train(method):
    config = mla_jax.load_config(f"configs/digits.py:method={method}", {"epochs": EPOCHS})
    return mla_jax.train(config, f"runs/laziness/{method}", say=quiet)


# %% [markdown]
# ## Each modality alone
#
# `late_fusion` has an encoder, a head and a loss per modality. Nothing is shared, so each modality
# learns as if it were alone. What it reaches is its ceiling.
#
# A run is a folder. If you execute this cell again, it opens the finished run and does not train it
# again. `run.result` is the content of `result.json`.

# %%
alone = train("late_fusion")
ceiling = {m: alone.result["test"][m] for m in alone.modalities}
for m, accuracy in ceiling.items():
    print(f"{m} alone: test accuracy {accuracy:.3f}")

# %% [markdown]
# ## Both together
#
# `concat` joins the features of both encoders and trains one linear head on them. `mla` trains the
# encoders in turn. They share one head. Its gradient is projected, so that a step for one modality
# disturbs the other less.

# %%
runs = {method: train(method) for method in ("concat", "mla")}

print("method  fused  " + "  ".join(f"{m:<21}" for m in ceiling).rstrip())
for method, run in runs.items():
    test = run.result["test"]
    each = "  ".join(f"{test[m]:.3f} ({test[m] / ceiling[m]:4.0%} of alone)" for m in ceiling)
    print(f"{method:<6}  {test['fused']:.3f}  {each}")

# %% [markdown]
# The accuracy of a modality is that of its own part of the model, on the same test examples. Under
# `concat` both encoders stay below what they reach alone. Under `mla` they come much closer to it.
#
# ## Epoch by epoch
#
# `run.metrics` has one entry per epoch. The dashed line is the modality alone.

# %%
figure, axes = plt.subplots(1, len(ceiling), figsize=(9, 3.2), sharey=True, layout="constrained")
for axis, m in zip(axes, ceiling, strict=True):
    shown = {"alone": alone, **runs}
    for name, run in shown.items():
        lines = [line for line in run.metrics if "test" in line]
        style = "--" if name == "alone" else "-"
        axis.plot([e["epoch"] for e in lines], [e["test"][m] for e in lines], style, label=name)
    axis.set(title=m, xlabel="epoch", ylim=(0, 1))
axes[0].set_ylabel("test accuracy of the modality")
axes[-1].legend()
figure.savefig("laziness.png", dpi=120)

# %% [markdown]
# ## What to do next
#
# * Compare more methods, with several seeds and tests:
#   `python -m mla_jax.compare --config=configs/digits.py --methods=all --seeds=0,1,2`.
#   [Every method on digits](../comparison.md) has the result.
# * Train on [your own data](../how-to/own-data.md).
# * `late_fusion` shares nothing between the modalities and is a control that you should always run:
#   on this small data set it is as good as MLA.
#
# The last cell checks what this page says.

# %%
for m in ceiling:
    gap = {method: ceiling[m] - run.result["test"][m] for method, run in runs.items()}
    assert gap["concat"] > 0.05, f"concat is not lazy about {m}: {gap}"
    assert gap["mla"] < gap["concat"] / 2, f"mla does not mend {m}: {gap}"
