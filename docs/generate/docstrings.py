"""Docstrings as the API page shows them: doctests and formulas become code blocks.

The docstrings follow Google's style with a little reStructuredText, of which Markdown knows less.
"""

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^>>> .*\n?(?:.*\S.*\n?)*", re.MULTILINE)
FORMULA = re.compile(r"^\.\. math:: *(?P<first>.*)\n(?P<rest>(?:[ \t]+\S.*\n)*)", re.MULTILINE)


def as_markdown(text: str) -> str:
    """A docstring in Markdown, its Google sections untouched."""
    text = FORMULA.sub(lambda found: _code("text", f"{found['first']}\n{found['rest']}"), text)
    text = re.sub(r":(?:math|class|func):`([^`]*)`", r"`\1`", text)
    text = re.sub(r"(?<=\w)::$", ":", text, flags=re.MULTILINE)
    text = re.sub(r" +# doctest: \+\w+", "", text)
    return DOCTEST.sub(lambda found: _code("pycon", found[0]), text)


def _code(language: str, text: str) -> str:
    lines = "\n".join(line.strip() if language == "text" else line for line in text.splitlines())
    return f"```{language}\n{lines.strip()}\n```\n"


class Docstrings(griffe.Extension):
    """Rewrites every docstring of the package."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Called for each object once its members are known."""
        del kwargs
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
