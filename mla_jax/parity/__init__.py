"""Numbers against the PyTorch references, quantity by quantity and column by column.

    python -m mla_jax.parity --reference=PATH_TO_A_CLONE --dimml=PATH_TO_ANOTHER --workdir=DIR

MLA's fidelities and the methods of its repository against the one clone, DI-MML and its fusion
modules against the other; either may be left out.  ``columns`` lists what is compared, ``theirs``
runs the clones and ``ours`` this package, ``compare`` judges.  Nothing here is needed to train;
torch is imported only where a clone is loaded.
"""
