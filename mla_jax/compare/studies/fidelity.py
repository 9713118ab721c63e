"""The forms of MLA (paper, released code, first code drop), and ablations of their switches.

Each switch of the two published forms is set by itself in the paper's form, then each switch of the
released form is set back by itself.  ``docs/fidelity.md`` explains each.
"""

from mla_jax.compare.studies.study import Study

STUDY = Study(
    title="The forms of MLA, and ablations of their switches",
    entries={
        "mla": "paper",
        "mla:fidelity=released": "released",
        "mla:fidelity=first_drop": "first drop",
        # The differences of released, one at a time.
        "mla:projection.enabled=false": "no projection",
        "mla:fusion=batch_entropy": "entropy over the batch",
        "mla:zero_grad_drift=true": "drift on zero gradients",
        # The differences of first_drop besides the last two, one at a time.
        "mla:projection.denominator=elementwise": "elementwise denominator",
        "mla:projection.normalize=frobenius": "Frobenius normalisation",
        "mla:projection.order=update_then_project": "update, then project",
        "mla:projection.skip_first=true": "first batch skipped",
        # Other readings of the code.
        "mla:projection.apply=add": "projection added",
        "mla:fusion=fixed": "fixed fusion",
        # Released, with one switch set back.
        "mla:fidelity=released+projection.enabled=true": "released, with projection",
        "mla:fidelity=released+fusion=entropy": "released, entropy of each example",
        "mla:fidelity=released+zero_grad_drift=false": "released, no drift",
    },
)
