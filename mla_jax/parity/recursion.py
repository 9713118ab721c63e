"""An independent implementation of the paper's projection and fusion: float64 numpy, row vectors.

The released code has no version of these two that computes the paper's equations, so they are
checked against a second implementation that shares no code and no convention with the first: here
the gradient is ``[C, D]``, as PyTorch stores it, and P acts from the right.
"""

import numpy as np


def project(gradient: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Equation 2: the head's gradient ``[C, D]`` projected by P."""
    return gradient @ P


def update(P: np.ndarray, mean: np.ndarray, alpha: float) -> np.ndarray:
    """Equation 3: P after a step on features with mean ``[D]``."""
    q = (P @ mean) / (alpha + mean @ P @ mean)
    return P - np.outer(q, mean @ P)


def fuse(logits: np.ndarray) -> np.ndarray:
    """Section 3.3 for ``logits: [M, B, C]``: modalities are weighted by certainty per example."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    entropy = -(p * np.log(p)).sum(-1)
    weights = np.exp(entropy.max(0) - entropy)
    weights /= weights.sum(0)
    return (weights[..., None] * logits).sum(0)
