"""Figures of the documentation: from finished comparisons to ``results/``, and into the pages.

An artefact, ``results/NAME.json``, is what a finished comparison says, checked against its runs.
The pages take their tables from artefacts, and every figure in their prose names one.
"""
