"""Figures in the documentation: from finished comparisons to ``results/``, and into the pages.

An artefact, ``results/NAME.json``, has the figures of a finished comparison, checked against its
runs.  The pages take their tables from artefacts, and every figure in their text names one.
"""
