"""Checks a built site: every link and picture leads somewhere, and nothing comes from the network.

    python -m mkdocs build --strict && python -m docs.generate.check site

mkdocs looks at the links of the pages in Markdown; this looks at those of the HTML, whoever made
them.
"""

import html.parser
import pathlib
import sys
import urllib.parse
from collections.abc import Iterator

LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src")}
"""What a browser loads by itself.  A page may link elsewhere, but must not load from there."""


class Page(html.parser.HTMLParser):
    """The anchors of a page and the addresses in it."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.addresses: list[tuple[str, bool]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes the anchor and the addresses of an element."""
        found = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := found.get(key))}
        self.addresses += [
            (value, (tag, key) in LOADED)
            for key, value in attrs
            if key in ("href", "src") and value
        ]


def problems(site: pathlib.Path) -> Iterator[str]:
    """A sentence for each address that leads nowhere or is loaded from the network."""
    pages = {path.resolve(): Page(path.read_text("utf-8")) for path in site.rglob("*.html")}
    for path, page in pages.items():
        if path.name == "404.html":  # its addresses are those of a server's root
            continue
        for address, loaded in page.addresses:
            parts = urllib.parse.urlsplit(address)
            if parts.scheme or parts.netloc:
                if loaded and parts.scheme != "data":
                    yield f"{path.relative_to(site)} loads {address}"
                continue
            target = (
                (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            )
            if not target.is_file():
                yield f"{path.relative_to(site)} links to {address}, which is not there"
            elif parts.fragment and target in pages:
                anchor = urllib.parse.unquote(parts.fragment)
                if anchor not in pages[target].anchors and anchor != "__comments":
                    yield f"{path.relative_to(site)} links to {address}, which has no such anchor"


def main(arguments: list[str]) -> int:
    """Prints the problems; the exit status is 1 if there are any."""
    site = pathlib.Path(arguments[0] if arguments else "site").resolve()
    pages = sum(1 for _ in site.rglob("*.html"))
    found = sorted(set(problems(site)))
    print(
        "\n".join(found)
        or f"{pages} pages: every link leads somewhere, nothing is loaded from elsewhere"
    )
    return int(bool(found) or not pages)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
