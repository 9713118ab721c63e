"""One modality corrupted at test time, as MultiBench and QMF test robustness; our own study.

``data/corruptions.py`` corrupts the test split, ``compare/robustness.py`` evaluates finished runs
on it.  MLA with equal weights is the run of ``mla`` under another fusion: its difference from
``mla`` is the effect of entropy fusion under noise.
"""

from mla_jax.compare.studies.study import Study

STUDY = Study(
    title="Robustness to a corrupted modality",
    entries={
        "concat": "concat",
        "late_fusion": "late fusion",
        "ogm_ge": "OGM-GE",
        "qmf": "QMF",
        "mla:fusion=equal": "MLA, equal weights",
        "mla": "MLA",
        "dimml": "DI-MML",
    },
    measure="robustness",
    same_unimodal=(("mla:fusion=equal", "mla"),),
)
