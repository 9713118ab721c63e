"""Numbers against the PyTorch reference, quantity by quantity and fidelity by fidelity.

    python -m mla_jax.parity --reference=PATH_TO_A_CLONE --workdir=DIR

Nothing here is needed to train; only ``reference`` and ``toy`` import torch, and only when called.
"""
