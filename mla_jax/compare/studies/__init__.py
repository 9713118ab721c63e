"""The studies that ``--study`` names: tables and figures of the papers, a file each, as data.

A file defines ``STUDY``; here it is entered.  A study trains nothing that ``--methods``, ``--vary``
and ``--missing`` could not: it adds the order, the headings and the published figures.
"""

from mla_jax.compare.studies import (
    dimml,
    fidelity,
    forgetting,
    noise,
    representation,
    table1,
    table2,
    table3,
    table4,
)
from mla_jax.compare.studies.study import Study

STUDIES: dict[str, Study] = {
    "table1": table1.STUDY,
    "table2": table2.STUDY,
    "table3": table3.STUDY,
    "table4": table4.STUDY,
    "fidelity": fidelity.STUDY,
    "dimml": dimml.STUDY,
    "forgetting": forgetting.STUDY,
    "noise": noise.STUDY,
    "representation": representation.STUDY,
}
