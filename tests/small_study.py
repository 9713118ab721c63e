"""``python -m mla_jax.compare`` with three rows in its study ``noise``: seven compile for long."""

import dataclasses
import runpy

from mla_jax.compare.studies import STUDIES

ROWS = ("late_fusion", "mla:fusion=equal", "mla")

if __name__ == "__main__":
    study = STUDIES["noise"]
    entries = {entry: study.entries[entry] for entry in ROWS}
    STUDIES["noise"] = dataclasses.replace(study, entries=entries)
    runpy.run_module("mla_jax.compare", run_name="__main__")
