"""Runs the published methods for missing modalities from the user's clones.

Each function takes a loaded clone and a dtype, and returns numpy arrays by name: its inputs and
initial parameters first, so that another implementation can start from them.  Nothing here knows
ours.
"""

from collections.abc import Callable, Mapping

from mla_jax.parity.formula import Tensors
from mla_jax.parity.theirs.missing import correlation, imagination, pieces

RUN: Mapping[str, tuple[str, Callable[..., Tensors]]] = {
    "cca": ("gcnet", correlation.cca),
    "dcca": ("gcnet", correlation.dcca),
    "dccae": ("gcnet", correlation.dccae),
    "gcnet_ae": ("gcnet", imagination.gcnet_ae),
    "gcnet_cra": ("gcnet", imagination.gcnet_cra),
    "gcnet_mmin": ("gcnet", imagination.gcnet_mmin),
    "mmin": ("mmin", imagination.mmin),
    "if_mmin": ("if_mmin", imagination.if_mmin),
    "correlation_loss": ("gcnet", pieces.correlation_loss),
    "moment_discrepancy": ("if_mmin", pieces.moment_discrepancy),
}
"""``{name: (flag of the clone, function)}``."""
