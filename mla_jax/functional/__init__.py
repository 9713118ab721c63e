"""Pure functions and gradient transformations, for any training loop: projection, modulation,
fusion, losses, heads, optimisers.

Nothing here imports the trainer.
"""
