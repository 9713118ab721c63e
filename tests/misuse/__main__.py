"""Makes every mistake and prints the table of what was answered.

    python -m tests.misuse > docs/misuse.md
    python -m tests.misuse --write

``--write`` puts it where it belongs.
"""

import pathlib
import sys
import tempfile

import tests.conftest  # noqa: F401 - eight simulated devices, as in the tests
from tests.misuse import page, world
from tests.misuse.cases import CASES
from tests.misuse.runner import run


def main() -> None:
    """Prints or writes the page."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in ("sound", *CASES):
            (root / name).mkdir()
        copy_run = world.trained(root / "sound")
        for name, case in CASES.items():
            rows[name] = page.row(case, run(case, root / name, copy_run))
    if "--write" in sys.argv:
        page.FILE.write_text(page.page(rows))
    else:
        print(page.page(rows), end="")


if __name__ == "__main__":
    main()
