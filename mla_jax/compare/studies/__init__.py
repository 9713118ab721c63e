"""The studies of ``--study``: tables and figures of the papers as data, one file per study.

A file defines ``STUDY``, and this file registers it.  ``--methods``, ``--vary`` and ``--missing``
could train the same rows: a study adds the order, the headings and the published figures.
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
