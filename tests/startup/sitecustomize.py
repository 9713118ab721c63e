"""Python imports this at the start of a process that inherits the environment of the tests, since
``conftest`` puts this folder on its path.

A process that lives for seconds need not search the half million objects of its imports for
reference cycles, neither while it imports them nor at its end.  ``mla_jax.loading`` does the same
for commands; this is for the others: loader workers, kernels of notebooks, modules of the tests.
"""

import atexit
import gc

gc.set_threshold(500_000, 50, 100)
atexit.register(gc.freeze)
