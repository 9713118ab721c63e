"""The Markdown that this package writes, as HTML: headings, tables, pictures and paragraphs."""

import base64
import html
import pathlib
import re
from collections.abc import Iterable


def blocks_html(blocks: Iterable[str], folder: pathlib.Path) -> str:
    """Blocks of ``comparison.md`` as HTML.

    Args:
      blocks: each a heading ``## ...``, a table, a picture ``![](FILE.png)`` or a paragraph.
      folder: where the pictures are; a missing picture is left out.
    """
    parts = (part for block in blocks for part in block.split("\n\n"))
    return "\n".join(filter(None, (block_html(part.strip(), folder) for part in parts)))


def block_html(block: str, folder: pathlib.Path) -> str:
    """One block; empty if there is nothing to show."""
    if heading := re.fullmatch(r"(##+) (.*)", block):
        level = len(heading[1])
        return f"<h{level}>{text_html(heading[2])}</h{level}>"
    if picture := re.fullmatch(r"!\[(.*)\]\((.*\.png)\)", block):
        path = folder / picture[2]
        return picture_html(path.read_bytes(), picture[1]) if path.is_file() else ""
    if block.startswith("|"):
        return table_html(block.splitlines())
    return f"<p>{text_html(block)}</p>" if block else ""


def text_html(text: str) -> str:
    """Escaped text, with `...` as code and **...** as strong."""
    text = re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


def picture_html(image: bytes, about: str = "") -> str:
    """A PNG, in the page."""
    text = base64.b64encode(image).decode()
    return f'<img class="plot" alt="{html.escape(about)}" src="data:image/png;base64,{text}">'


def table_html(lines: list[str]) -> str:
    """A table from ``report.markdown_table``, whose second line is the alignment."""

    def cells(line: str) -> list[str]:
        found = re.split(r"(?<!\\)\|", line.strip()[1:-1])
        return [text_html(cell.strip().replace(r"\|", "|")) for cell in found]

    head = "".join(f'<th scope="col">{cell}</th>' for cell in cells(lines[0]))
    body = []
    for first, *others in map(cells, lines[2:]):
        numbers = "".join(f"<td>{cell}</td>" for cell in others)
        body.append(f'<tr><th scope="row">{first}</th>{numbers}</tr>')
    return (
        f'<div class="wide"><table class="plain"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
