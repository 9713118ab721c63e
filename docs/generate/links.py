"""Links of the pages that leave ``docs/``: their targets become pages or files of the site.

No home address of the repository is known, so a link to ``../mla_jax/train.py`` cannot lead there.
The site holds a copy of each such file below ``source/``: text as a page, JSON as it is.
"""

import os
import pathlib
import posixpath
import re
from collections.abc import Iterator

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)(?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")
FOLDER = "source"
AS_THEY_ARE = (".json", ".png", ".svg")
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".cfg": "ini", "": "text"}


def leaving(text: str, place: str) -> Iterator[str]:
    """The paths, from the root of the repository, that links of a page outside ``docs/`` lead to.

    ``place`` is the path of the page from that root.
    """
    for found in LINK.finditer(text):
        target = resolved(found["path"], place)
        if not target.startswith("docs/"):
            yield target


def resolved(path: str, place: str) -> str:
    """A relative link as a path from the root of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), path))


def home(target: str) -> str:
    """Where the site has a file of the repository, as a path below ``docs/``."""
    if target.startswith("docs/"):
        page = re.sub(r"^docs/notebooks/(\w+)\.py$", r"docs/notebooks/\1.md", target)
        return page.removeprefix("docs/")
    if target.endswith(AS_THEY_ARE):
        return f"{FOLDER}/{target}"
    return f"{FOLDER}/{target}" if target.endswith(".md") else f"{FOLDER}/{target}.md"


def rewritten(text: str, place: str) -> str:
    """A page of the repository with links for the site."""
    here = posixpath.dirname(home(place))

    def anew(found: re.Match[str]) -> str:
        target = home(resolved(found["path"], place))
        return posixpath.relpath(target, here or ".") + (found["anchor"] or "")

    return LINK.sub(anew, text)


def as_page(root: pathlib.Path, target: str) -> str:
    """The text of a file of the repository as a page.

    Raises:
      FileNotFoundError: a page links to a file that there is not.
    """
    path = root / target
    if path.is_dir():
        listed = sorted(os.listdir(path))
        return f"# {target}\n\n" + "\n".join(f"* `{name}`" for name in listed)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return rewritten(text, target)
    fence = "````" if "```" in text else "```"
    language = LANGUAGES.get(path.suffix, "text")
    quiet = "---\nsearch:\n  exclude: true\n---\n\n"
    return f"{quiet}# {path.name}\n\n`{target}`\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"
