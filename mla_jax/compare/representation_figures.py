"""Figures of a representation: the gap between modalities, how well it separates classes, and
whether the weights of the fusion go where the right answer is.

All functions take numpy arrays of N examples; ``z: float[N, D]`` are the features of one modality
for the examples that have it.
"""

import itertools
from typing import Any

import numpy as np
from scipy import stats

from mla_jax.runs.representation import Representation

POINTS = 200
"""The most points of a modality in the picture, evenly spaced in the split."""


def figures(found: Representation, modalities: tuple[str, ...]) -> dict[str, Any]:
    """All figures of one run: plain numbers, NaN where one is undefined.

    ``{"pairs": {"a+b": {"gap", "overlap", "overlap_by_chance"}}, "modalities": {m:
    {"nearest_mean", "accuracy", "effective", and if the method weighs modalities "weight_right",
    "weight_wrong", "auroc", "by_class"}}, "weights": {"right", "best", "by_chance", "examples"}}``;
    ``weights`` is empty where the method does not weigh.
    """
    classes = len(found.predictions.class_names)
    z, label, effective = {}, {}, {}
    of_modality: dict[str, dict[str, Any]] = {}
    for m in found.features:
        there = found.present[:, modalities.index(m)]
        z[m], label[m] = found.features[m][there], found.label[there]
        effective[m] = effective_dimensions(z[m], label[m], classes)
        right = found.predictions.modalities[m].classes[there] == label[m]
        of_modality[m] = {
            "nearest_mean": nearest_mean_accuracy(z[m], label[m], classes),
            "accuracy": float(right.mean()),
            "effective": float(effective[m].mean()),
        }
    pairs = {
        f"{a}+{b}": {"gap": modality_gap(z[a], z[b]), **overlap(effective[a], effective[b])}
        for a, b in itertools.combinations(z, 2)
    }
    weights: dict[str, Any] = {}
    if found.predictions.weights is not None:
        weights, by_modality = trust(found, modalities)
        for m in of_modality:
            of_modality[m] |= by_modality[m]
    return {"pairs": pairs, "modalities": of_modality, "weights": weights}


# ---- The features -------------------------------------------------------------------------------


def normalised(z: np.ndarray) -> np.ndarray:
    """Each row divided by its Euclidean length; rows of zeros stay zero."""
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return np.divide(z, length, out=np.zeros(z.shape), where=length > 0)


def modality_gap(a: np.ndarray, b: np.ndarray) -> float:
    """``||mean_i a_i / ||a_i|| - mean_i b_i / ||b_i|| ||``, in [0, 2].

    The distance between the centroids of the normalised features of two modalities (Liang et al.,
    Mind the gap, NeurIPS 2022).
    """
    return float(np.linalg.norm(normalised(a).mean(0) - normalised(b).mean(0)))


def class_means(z: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """``float[C, D]``; NaN for a class without examples."""
    total, count = np.zeros((classes, z.shape[1]), z.dtype), np.bincount(label, minlength=classes)
    np.add.at(total, label, z)
    return np.divide(
        total, count[:, None], out=np.full_like(total, np.nan), where=count[:, None] > 0
    )


def nearest_mean_accuracy(z: np.ndarray, label: np.ndarray, classes: int) -> float:
    """Accuracy of the nearest class mean (Euclidean), in two folds: every example is tested once.

    Examples of a class go to the folds in turn, in the order of the split.  It shows how well the
    features separate the classes, independently of the head, on the scale of an accuracy.
    """
    order = np.argsort(label, kind="stable")
    first = np.searchsorted(label[order], np.arange(classes))
    fold = np.empty(len(label), int)
    fold[order] = (np.arange(len(label)) - first[label[order]]) % 2
    z, hits = z.astype(np.float64), 0
    for tested in (0, 1):
        means, x = class_means(z[fold != tested], label[fold != tested], classes), z[fold == tested]
        distance = (means**2).sum(1) - 2 * x @ means.T  # without |x|^2, the same for all classes
        nearest = np.where(np.isnan(distance), np.inf, distance).argmin(1)
        hits += int((nearest == label[fold == tested]).sum())
    return hits / len(label)


def effective_dimensions(z: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """``bool[D]``: DI-MML's rule (``methods/dimml_dimensions.py``), on these examples.

    Dimension d is effective if the share of examples whose nearest class mean along d is their own
    is above the mean of these shares over all dimensions.
    """
    means = class_means(z, label, classes)
    shares = np.empty(z.shape[1])
    for d in range(z.shape[1]):  # [N, C] at a time
        distance = np.abs(z[:, d, None] - means[None, :, d])
        nearest = np.where(np.isnan(distance), np.inf, distance).argmin(1)
        shares[d] = (nearest == label).mean()
    return shares > shares.mean()


def overlap(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Jaccard's share of the dimensions ``bool[D]`` that two sets have in common, and that for two
    random sets of the same sizes (with their expected intersection)."""
    common, chance = float((a & b).sum()), float(a.sum() * b.sum() / len(a))
    both = float(a.sum() + b.sum())
    return {
        "overlap": common / (both - common) if both else np.nan,
        "overlap_by_chance": chance / (both - chance) if both else np.nan,
    }


# ---- The weights of the fusion ------------------------------------------------------------------


def trust(
    found: Representation, modalities: tuple[str, ...]
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Whether the weights go to the modality that is right: overall, and by modality.

    A weight is the modality's share of all weights of the example, including those of joint
    logits.  Only examples with two or more modalities and no weight below 0 count.

    Overall: over the ``examples`` on which some modalities are right and some wrong, how often the
    modality with the largest weight is ``right`` (ties count partly), how often the one modality is
    that is right most often on them (``best``), and how often a random one is (``by_chance``).

    By modality: its mean weight where it is right and where it is wrong, over all and by class, and
    how well the weight by itself separates the two (``auroc``, 0.5 by chance).
    """
    assert found.predictions.weights is not None  # a method that fuses features has none
    weights = found.predictions.weights.astype(np.float64)
    counted = (found.present.sum(1) > 1) & (weights >= 0).all(1) & (weights.sum(1) > 0)
    present, label = found.present[counted], found.label[counted]
    share = weights[counted] / weights[counted].sum(1, keepdims=True)
    share, right = share[:, : len(modalities)], np.zeros(present.shape, bool)
    for i, m in enumerate(modalities):
        if m in found.predictions.modalities:
            right[:, i] = found.predictions.modalities[m].classes[counted] == label

    mixed = right.any(1) & (present & ~right).any(1)
    largest = present & (share == np.where(present, share, -1).max(1, keepdims=True))
    mine, top = right[mixed], largest[mixed]
    of_all = {"examples": int(mixed.sum()), "right": np.nan, "best": np.nan, "by_chance": np.nan}
    if mixed.any():
        of_all["right"] = float(((mine & top).sum(1) / top.sum(1)).mean())
        of_all["best"] = float(mine.mean(0).max())
        of_all["by_chance"] = float((mine.sum(1) / present[mixed].sum(1)).mean())

    def of(i: int, where: np.ndarray) -> dict[str, float]:
        def mean(those: np.ndarray) -> float:
            return float(share[those, i].mean()) if those.any() else np.nan

        there = where & present[:, i]
        return {
            "weight_right": mean(there & right[:, i]),
            "weight_wrong": mean(there & ~right[:, i]),
        }

    everything = np.ones(len(label), bool)
    by_modality = {
        m: {
            **of(i, everything),
            "auroc": auroc(share[present[:, i], i], right[present[:, i], i]),
            "by_class": {
                name: of(i, label == c) for c, name in enumerate(found.predictions.class_names)
            },
        }
        for i, m in enumerate(modalities)
    }
    return of_all, by_modality


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """The chance that a positive example scores above a negative one, ties counting half.

    Mann and Whitney's U divided by its maximum; NaN if all examples are positive, or none is.
    """
    n = int(positive.sum())
    if n in (0, len(positive)):
        return float("nan")
    ranks = stats.rankdata(score)
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


# ---- The picture --------------------------------------------------------------------------------


def principal_map(found: Representation) -> dict[str, Any]:
    """The features on their first two principal components, for the picture.

    The components are those of the normalised features of all modalities together, the features
    that the gap uses; at most ``POINTS`` of each modality are returned.  The sign of a component is
    that of its largest entry.

    ``{"points": {m: [[x, y], ...]}, "label": {m: [...]}, "explained": [share, share]}``
    """
    z = {m: normalised(array) for m, array in found.features.items()}
    there = {m: np.flatnonzero(~np.isnan(array).any(1)) for m, array in z.items()}
    joined = np.concatenate([z[m][there[m]] for m in z])
    centre = joined.mean(0)
    variances, axes = np.linalg.eigh(np.cov(joined.T, bias=True).reshape(joined.shape[1], -1))
    axes, variances = axes[:, ::-1][:, :2], np.maximum(variances[::-1], 0)
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    points, label = {}, {}
    for m in z:
        kept = there[m][:: -(-len(there[m]) // POINTS)]
        points[m] = np.round((z[m][kept] - centre) @ axes, 4).tolist()
        label[m] = found.label[kept].tolist()
    explained = variances[:2] / max(variances.sum(), np.finfo(float).tiny)
    return {"points": points, "label": label, "explained": explained.tolist()}
