"""Compares numbers with the PyTorch references, by quantity and column.

    python -m mla_jax.parity --reference=PATH_TO_A_CLONE --dimml=PATH_TO_ANOTHER --workdir=DIR

MLA's fidelities and the methods of its repository are compared with one clone, DI-MML and its
fusion modules with the other; either may be left out.  ``columns`` lists what is compared,
``theirs`` runs the clones, ``ours`` runs this package, and ``compare`` judges.  Training does not
need it; torch is only imported when a clone is loaded.
"""
