"""How methods represent the modalities: our own study, after figures that papers show without

numbers.

The features of the test split are measured (``compare/representation.py``): the gap between
modalities, how well each separates the classes, DI-MML's effective dimensions, and whether the
weights of the fusion go to the modality that is right.  ``late_fusion`` trains its encoders
separately and weighs them equally, so whatever its modalities share is due to chance.
"""

from mla_jax.compare.studies.study import Study

STUDY = Study(
    title="What methods make of the modalities",
    entries={
        "concat": "Concat",
        "late_fusion": "Late Fusion",
        "qmf": "QMF",
        "mla": "MLA",
        "mla:projection.enabled=false": "MLA without HGM",
        "dimml": "DI-MML",
        "dimml:duc_weight=0": "DI-MML without DUC",
    },
    measure="representation",
)
