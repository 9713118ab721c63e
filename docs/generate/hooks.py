"""The hook of mkdocs: generated parts of pages, notebooks, and links that leave ``docs/``.

A page has a generated part where it says ``<!-- generated: NAME ARGUMENT -->`` on a line.  It is
made when the site is built, so it cannot go stale.
"""

import pathlib
import re
import sys
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]

from docs.generate import commands, links, notebooks, tables  # noqa: E402

MARKER = re.compile(r"^<!-- generated: (?P<name>\w+) ?(?P<argument>.*?) -->$", re.MULTILINE)
PARTS = {
    "fields": lambda _: tables.configuration_fields(),
    "arguments": lambda _: tables.arguments(),
    "encoders": lambda _: tables.encoder_fields(),
    "switches": tables.switches,
    "published": tables.published_figures,
    "commands": lambda _: commands.all_commands(),
}


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages of the notebooks, and every file that a page links to outside ``docs/``."""
    waiting = [
        (path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
        for path in sorted((ROOT / "docs").rglob("*.md"))
    ]
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.py")):
        source = str(path.relative_to(ROOT))
        files.remove(files.get_file_from_path(source.removeprefix("docs/")))
        page = notebooks.as_page(path.read_text(encoding="utf-8"), source)
        files.append(File.generated(config, links.home(source), content=page))
        waiting.append((page, source))
    added: set[str] = set()
    while waiting:
        text, place = waiting.pop()
        for target in links.leaving(text, place):
            if target in added or not (ROOT / target).exists():
                continue  # a dead link is left to mkdocs, whose warning names it
            added.add(target)
            where = links.home(target)
            if target.endswith(links.AS_THEY_ARE):
                files.append(File.generated(config, where, abs_src_path=str(ROOT / target)))
                continue
            files.append(File.generated(config, where, content=links.as_page(ROOT, target)))
            if target.endswith(".md"):
                waiting.append(((ROOT / target).read_text(encoding="utf-8"), target))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fills in the generated parts of a page, and mends its links."""
    del config, files
    if not page.file.src_uri.startswith(f"{links.FOLDER}/"):
        markdown = links.rewritten(markdown, f"docs/{page.file.src_uri}")
    return MARKER.sub(lambda found: PARTS[found["name"]](found["argument"]), markdown)
