"""What MLA's shared head forgets, and what the projection prevents; our study, not a paper's.

The runs are measured every fifth batch (``mla_jax/telemetry``); ``compare/forgetting.py``
summarises it.  With the 26 or 25 batches per epoch of the embedded data sets, all
batches of an epoch are seen in turn.
"""

from mla_jax.compare.studies.study import Study

STUDY = Study(
    title="What the shared head forgets",
    entries={
        "mla": "HGM, falling alpha",
        "mla:projection.alpha=0.1": "HGM, alpha 0.1",
        "mla:projection.enabled=false": "no HGM",
    },
    seeds=("0", "1", "2", "3", "4"),
    settings={"telemetry.every_steps": 5},
    measure="forgetting",
)
