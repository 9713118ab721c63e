"""Numbers against the PyTorch reference, quantity by quantity and fidelity by fidelity.

    python -m mla_jax.parity --reference=PATH_TO_A_CLONE --dimml=PATH_TO_ANOTHER --workdir=DIR

MLA's fidelities and the methods of its repository against the one clone, DI-MML and its fusion
modules against the other; either may be left out.  ``theirs`` runs MLA, ``joint_theirs`` the
other methods of its repository and ``dimml_theirs`` the DI-MML repository; ``*ours`` run this
package.  Nothing here is needed to train; torch is imported only where a clone is loaded.
"""
