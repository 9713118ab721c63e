"""Pure functions and gradient transformations, for any training loop: projection, modulation,
fusion, losses, heads, optimisers.

Nothing here imports the trainer.

Examples take ``import jax, mla_jax, optax``, ``jax.numpy as jnp`` and ``numpy as np``; they print
three digits, as after ``np.set_printoptions(precision=3, suppress=True)``.
"""
