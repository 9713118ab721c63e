"""Table 4 of the MLA paper: methods on the frozen features of large pretrained encoders.

The paper uses CLIP's and ImageBind's features of Food-101.  Its figures could not be read, so
there is no published column.  The command for such features is

    --config=configs/arrays.py:modalities=image+text --config.dataset.path=FEATURES --study=table4

and ``docs/representation.md`` shows how to make FEATURES.  The rows are the methods of Table 1,
and MLA without each of its parts.  On any other data set the rows are the same and the encoders
are the data set's own, which learn.
"""

from mla_jax.compare.studies import table1
from mla_jax.compare.studies.study import Study

STUDY = Study(
    title="Methods on frozen features (Table 4 of the MLA paper)",
    entries={
        **table1.ENTRIES,
        "mla:fusion=equal": "MLA, DF ✗",
        "mla:projection.enabled=false": "MLA, HGM ✗",
        "mla:projection.enabled=false+fusion=equal": "MLA, HGM ✗, DF ✗",
    },
    same_unimodal=(
        ("mla", "mla:fusion=equal"),
        ("mla:projection.enabled=false", "mla:projection.enabled=false+fusion=equal"),
    ),
)
