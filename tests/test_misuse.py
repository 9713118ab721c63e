"""Hundreds of mistakes: one sentence each, another exit status, and nothing half-written."""

import importlib.util
import os

import pytest

from tests.misuse import page, world
from tests.misuse.cases import CASES
from tests.misuse.runner import run

WRITTEN = page.written()
SAME_VERSIONS = page.versions() in page.FILE.read_text()
NEEDS_TORCH = (".pth", ".bin")


@pytest.fixture(scope="module")
def copy_run(tmp_path_factory):
    return world.trained(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("name", CASES)
def test_misuse(name, tmp_path, copy_run):
    """The answer is also the one of ``docs/misuse.md``."""
    case = CASES[name]
    if any(path.endswith(NEEDS_TORCH) for path in case.files) and not has_torch():
        pytest.skip("the sentence is that PyTorch is missing")
    outcome = run(case, tmp_path, copy_run)
    assert outcome.said.count("\n") == 1 and outcome.said.endswith("\n"), outcome.said
    assert "Traceback" not in outcome.said
    assert case.sentence and case.sentence in outcome.said
    assert outcome.status == case.status != 0
    assert outcome.changed == []
    expected, found = WRITTEN.get(name, ""), page.row(case, outcome)
    if not SAME_VERSIONS:  # a library may say it in other words
        expected, found = (
            row.split(" | ")[:2] + row.split(" | ")[-1:] for row in (expected, found)
        )
    assert found == expected, "python -m tests.misuse --write makes the page again"


def has_torch():
    return importlib.util.find_spec("torch") is not None


def test_the_page_holds_every_case_and_nothing_else():
    text = page.FILE.read_text()
    if SAME_VERSIONS:
        assert text == page.page(WRITTEN)
    assert text.count("\n| `") == len(CASES)


def test_what_is_written_is_seen(tmp_path):
    """Other content of the same length, another file in its place, a new and an absent one."""
    for name in "abcd":
        world.write(tmp_path / "x" / name, "old")
        os.utime(tmp_path / "x" / name, ns=(1, 1))
    before = world.listing(tmp_path)
    (tmp_path / "x" / "a").write_text("new")
    (tmp_path / "x" / "e").write_text("new")
    (tmp_path / "x" / "e").replace(tmp_path / "x" / "b")
    (tmp_path / "x" / "c").unlink()
    (tmp_path / "x" / "f").mkdir()
    after = world.listing(tmp_path)
    names = before.keys() | after.keys()
    changed = {name for name in names if before.get(name, ...) != after.get(name, ...)}
    assert changed == {"x/a", "x/b", "x/c", "x/f"} and "x" in before


def test_there_are_enough_cases():
    """120 and more, over config, data, weights, folders, signals and commands, as promised."""
    assert len(CASES) >= 120
    assert len({(c.typed, c.holds, str(c.files.keys())) for c in CASES.values()}) > 0.9 * len(CASES)
    assert {name.partition("-")[0] for name in CASES} >= {
        "config", "data", "weights", "folders", "signals", "commands"
    }  # fmt: skip
