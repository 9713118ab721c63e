"""Table 2 of the MLA paper: twelve methods under missing modalities.

Its figures and their origins are in ``compare/published.py``; the sweep prints them for IEMOCAP.
"""

from mla_jax.compare.studies.study import Study

STUDY = Study(
    title="Missing modalities (Table 2 of the MLA paper)",
    entries={
        "late_fusion": "Late Fusion",
        "qmf": "QMF",
        "cca": "CCA",
        "dcca": "DCCA",
        "dccae": "DCCAE",
        "ae": "AE",
        "cra": "CRA",
        "mmin": "MMIN",
        "if_mmin": "IF-MMIN",
        "cpm_net": "CPM-Net",
        "tate": "TATE",
        "mla": "MLA",
    },
    source="MLA paper, Table 2",
    missing=("0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"),
)
