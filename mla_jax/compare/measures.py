"""What a study measures of finished runs beside their accuracy.

A measure is a module with

  ``PLOTS``                   the files that it draws into the comparison's folder,
  ``of_rows(rows, workdir)``  the figures, for ``comparison.json``; draws the plots,
  ``sections(found)``         what ``comparison.md`` says of them, as Markdown.

A study names one (``Study.measure``); the figures stand in ``comparison.json`` under that name.
"""

from types import ModuleType

from mla_jax.compare import forgetting, representation, robustness

MEASURES: dict[str, ModuleType] = {
    "forgetting": forgetting,
    "representation": representation,
    "robustness": robustness,
}
