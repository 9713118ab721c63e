"""A table as LaTeX, for booktabs."""

from collections.abc import Sequence

SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    "✓": r"$\checkmark$",
    "✗": r"$\times$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "`": r"\textasciigrave{}",
}
"""Characters that have a special meaning in LaTeX, or that it lacks."""
BOLD = "**"
"""What Markdown has on both sides of a cell in bold type."""


def escape(text: str) -> str:
    """Text as LaTeX prints it.

    >>> escape("mla:zero_grad_drift, 50 %")
    'mla:zero\\\\_grad\\\\_drift, 50 \\\\%'
    """
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))


def cell(text: str) -> str:
    """A cell of a table; ``**0.971**`` is printed in bold type."""
    if len(text) > 2 * len(BOLD) and text.startswith(BOLD) and text.endswith(BOLD):
        return rf"\textbf{{{escape(text[len(BOLD) : -len(BOLD)])}}}"
    return escape(text)


def document_table(
    header: Sequence[str], body: Sequence[Sequence[str]], caption: str, label: str = "comparison"
) -> str:
    r"""A ``table`` environment, for a document with ``\usepackage{booktabs,amssymb}``.

    Args:
      header: the names of the columns; the first is left-aligned.
      body: the rows of cells, as they go into Markdown.
      caption: plain text.
      label: the name for ``\ref{tab:...}``.
    """
    lines = [
        r"% \usepackage{booktabs,amssymb}",
        r"\begin{table}",
        r"\centering",
        r"\begin{tabular}{@{}l" + "r" * (len(header) - 1) + "@{}}",
        r"\toprule",
        " & ".join(map(cell, header)) + r" \\",
        r"\midrule",
        *(" & ".join(map(cell, row)) + r" \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{escape(caption.replace('`', ''))}}}",
        rf"\label{{tab:{label}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
