"""MLA as the paper has it, as its code was released, as it was first dropped, and switch by switch.

Each switch of the two published forms is set alone in the paper's form, then each of those of the
released form is set back.  ``docs/fidelity.md`` says what each is.
"""

from mla_jax.compare.studies.study import Study

STUDY = Study(
    title="The forms of MLA, and each of their switches alone",
    entries={
        "mla": "paper",
        "mla:fidelity=released": "released",
        "mla:fidelity=first_drop": "first drop",
        # What released differs in, each alone.
        "mla:projection.enabled=false": "no projection",
        "mla:fusion=batch_entropy": "entropy over the batch",
        "mla:zero_grad_drift=true": "drift on zero gradients",
        # What first_drop differs in beside the last two, each alone.
        "mla:projection.denominator=elementwise": "elementwise denominator",
        "mla:projection.normalize=frobenius": "Frobenius normalisation",
        "mla:projection.order=update_then_project": "update, then project",
        "mla:projection.skip_first=true": "first batch skipped",
        # What other readings of the code have.
        "mla:projection.apply=add": "projection added",
        "mla:fusion=fixed": "fixed fusion",
        # Released, with one switch set back.
        "mla:fidelity=released+projection.enabled=true": "released, with projection",
        "mla:fidelity=released+fusion=entropy": "released, entropy of each example",
        "mla:fidelity=released+zero_grad_drift=false": "released, no drift",
    },
)
