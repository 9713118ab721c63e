"""DI-MML, its baselines, and its ablations: each part off, each hyper-parameter varied.

The paper's figures could not be read, so there is no published column.  Its noise study is this one
crossed with ``--vary=dataset.noise=0,0.1,0.2,0.3,0.4``, on a data set of images.
"""

from mla_jax.compare.studies.study import Study

STUDY = Study(
    title="DI-MML and its ablations",
    entries={
        "unimodal": "unimodal",
        "concat": "joint",
        "ogm_ge": "OGM-GE",
        "qmf": "QMF",
        "mla": "MLA",
        "dimml": "DI-MML",
        "dimml:shared_weight=0": "no shared head",
        "dimml:duc_weight=0": "no DUC loss",
        "dimml:fusion=equal": "no certainty weighting",
        "dimml:shared_weight=0+duc_weight=0": "neither head nor DUC",
        "dimml:temperature=1": "DUC temperature 1",
        "dimml:temperature=50": "DUC temperature 50",
        "dimml:certainty_temperature=0.3": "certainty temperature 0.3",
        "dimml:certainty_temperature=3": "certainty temperature 3",
        "dimml:split_epoch=1": "dimensions split after epoch 1",
        "dimml:fused_head=sum": "fused head: sum",
        "dimml:fused_head=film": "fused head: FiLM",
        "dimml:fused_head=gated": "fused head: gated",
    },
)
