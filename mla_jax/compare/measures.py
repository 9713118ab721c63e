"""What a study measures on finished runs besides their accuracy.

A measure is a module with

  ``PLOTS``                   the files that it draws into the comparison's folder,
  ``of_rows(rows, workdir)``  the figures, for ``comparison.json``; draws the plots,
  ``sections(found)``         the part of ``comparison.md`` about them, as Markdown.

A study names one (``Study.measure``); ``comparison.json`` has the figures under that name.
"""

from types import ModuleType

from mla_jax.compare import forgetting, representation, robustness

MEASURES: dict[str, ModuleType] = {
    "forgetting": forgetting,
    "representation": representation,
    "robustness": robustness,
}
