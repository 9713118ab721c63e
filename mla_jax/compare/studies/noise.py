"""One modality spoilt at test time: ours, as MultiBench and QMF test robustness, in no paper.

``data/corruptions.py`` spoils the test split, ``compare/robustness.py`` evaluates the finished runs
on it.  MLA with equal weights is the run of ``mla`` under another fusion: what it lacks beside
``mla`` is what entropy fusion does under noise.
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
