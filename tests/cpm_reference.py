"""CPM-Nets in plain numpy, float64, from the equations: what our implementation is compared with.

The published code (Zhang et al., NeurIPS 2019, ``util/model.py``) is for TensorFlow 1.  One linear
map per view, as in GCNet's port.  N examples, K latent dimensions, C classes, views v.
"""

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Of TensorFlow's Adam for one array: its epsilon stands beside the uncorrected root."""

    first: np.ndarray
    second: np.ndarray
    steps: int = 0

    @classmethod
    def zeros(cls, like):
        return cls(np.zeros_like(like), np.zeros_like(like))


def adam(value, gradient, moments, rate, b1=0.9, b2=0.999, epsilon=1e-8):
    """One step; the correction of both moments is in the rate."""
    first = b1 * moments.first + (1 - b1) * gradient
    second = b2 * moments.second + (1 - b2) * gradient**2
    steps = moments.steps + 1
    corrected = rate * np.sqrt(1 - b2**steps) / (1 - b1**steps)
    return value - corrected * first / (np.sqrt(second) + epsilon), Moments(first, second, steps)


def reconstruction(latents, maps, views, present):
    """R: a sum over examples, observed views and dimensions.

    Args:
      latents: [N, K]; maps: ``[(W [K, d], b [d])]``; views: ``[x [N, d]]``; present: [N, V].

    Returns:
      R, its gradient [N, K] by the latents and ``[(by W, by b)]``.
    """
    total, by_latents, by_maps = 0.0, np.zeros_like(latents), []
    for v, ((weight, bias), x) in enumerate(zip(maps, views, strict=True)):
        error = present[:, v, None] * (latents @ weight + bias - x)
        total += (error**2).sum()  # present is 0 or 1, its own square
        by_latents += 2 * error @ weight.T
        by_maps.append((2 * latents.T @ error, 2 * error.sum(0)))
    return total, by_latents, by_maps


def class_scores(latents, labels, classes):
    """M [N, C], the mean inner product with the other examples of each class, and who counts.

    That is [N, N, C]: the share of example m in the mean of n and class c.  A class whose only
    example is the one in question has 0 / 0, as published.
    """
    members = np.eye(classes)[labels]  # [N, C]
    others = members[None] * (1 - np.eye(len(labels)))[:, :, None]
    with np.errstate(invalid="ignore"):
        share = others / others.sum(1, keepdims=True)
    return np.einsum("nk,mk,nmc->nc", latents, latents, share), share


def class_loss(latents, labels, classes):
    """Lambda and its gradient [N, K]: the first of several largest scores counts."""
    scores, share = class_scores(latents, labels, classes)
    rows = np.arange(len(labels))
    best = scores.argmax(1)
    terms = np.maximum(0, (best != labels) + scores[rows, best] - scores[rows, labels])
    active = (terms > 0).astype(float)
    weight = active[:, None] * (share[rows, :, best] - share[rows, :, labels])  # d / d <h_n, h_m>
    return terms.sum(), weight @ latents + weight.T @ latents


def train(latents, maps, views, present, labels, classes, trade_off, epochs, rates, steps=(5, 5)):
    """Alternating full-batch updates: ``steps[0]`` of the maps by R, ``steps[1]`` of the latents
    by R + trade_off Lambda.  Each group has its own moments, which go on through all epochs."""
    state = Moments.zeros(latents)
    states = [[Moments.zeros(part) for part in pair] for pair in maps]
    for _ in range(epochs):
        for _ in range(steps[0]):
            _, _, gradients = reconstruction(latents, maps, views, present)
            for v, pair in enumerate(gradients):
                updated = [
                    adam(value, gradient, moments, rates[0])
                    for value, gradient, moments in zip(maps[v], pair, states[v], strict=True)
                ]
                maps = [*maps[:v], tuple(value for value, _ in updated), *maps[v + 1 :]]
                states[v] = [moments for _, moments in updated]
        for _ in range(steps[1]):
            _, gradient, _ = reconstruction(latents, maps, views, present)
            gradient = gradient + trade_off * class_loss(latents, labels, classes)[1]
            latents, state = adam(latents, gradient, state, rates[1])
    return latents, maps


def infer(latents, maps, views, present, epochs, rate, steps=5):
    """Latents of the test set: ``epochs * steps`` updates by R with the maps as they are.

    The rate is that of the maps, as published, not that of the training latents.
    """
    state = Moments.zeros(latents)
    for _ in range(epochs * steps):
        _, gradient, _ = reconstruction(latents, maps, views, present)
        latents, state = adam(latents, gradient, state, rate)
    return latents


def predict(latents, train_latents, labels, classes):
    """The class of the largest mean inner product with its training latents."""
    members = np.eye(classes)[labels]
    return (latents @ train_latents.T @ members / members.sum(0)).argmax(1)
