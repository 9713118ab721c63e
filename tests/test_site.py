"""The pages, without building the site: what they name exists, and the reference is complete."""

import inspect
import pathlib
import re
import unicodedata

import pytest
import yaml

from docs.generate import check, commands, links, tables
from mla_jax import datasets, encoders, methods
from mla_jax.compare import published, studies
from mla_jax.compare.variants import parse_variant
from mla_jax.config import fields, files, meanings
from mla_jax.errors import UserError
from mla_jax.leaderboard import pages

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "results" / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "misuse.md"),
]
"""``misuse.md`` is a list of mistakes, which ``test_misuse.py`` makes."""
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
CODE = re.compile(r"^```.*?^```|^(?: {4}.*\n?)+|`[^`]+`", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"python -m mla_jax\.(?P<name>\w+)(?P<rest>[^\n`]*)")
OPTION = re.compile(r"(?<![\w-])--(?P<name>[a-z][\w]*)(?P<field>(?:\.\w+)*)")
REPOSITORY_PATH = re.compile(
    r"(?<![\w/.-])(?:configs|docs|launch|mla_jax|results|tests)/[\w./*-]*[\w*]"
)
MADE = (
    "configs/NAME.py", "docs/methods/NAME.md", "mla_jax/methods/NAME.py", "results/NAME.json",
)  # fmt: skip
"""Paths that stand for any file."""
FOREIGN = {
    "follow", "gpus", "nodes", "patch", "selector", "signal", "time", "xla_cpu_max_isa",
    "av_alpha", "dynamic", "gs_flag", "use_tensorboard", "write",
}  # fmt: skip
"""Options of other programs: kubectl, SLURM, XLA, the published code of MLA, ``tests.misuse``."""


def text_of(path: pathlib.Path) -> str:
    """A page with the lines joined that end in a backslash, or inside of inline code."""
    text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
    return re.sub(r"(?<!`)`[^`]+`(?!`)", lambda code: " ".join(code[0].split()), text)


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and mkdocs make it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading)
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[\s]", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def anchors_of(path: pathlib.Path) -> set[str]:
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    found = {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose, re.MULTILINE)}
    return found | {anchor.replace("--", "-") for anchor in found}


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(path):
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    for found in links.LINK.finditer(prose):
        target = (path.parent / found["path"]).resolve()
        assert target.exists(), f"{path}: {found['path']}"
        if found["anchor"] and target.suffix == ".md":
            assert found["anchor"][1:] in anchors_of(target), f"{found['path']}{found['anchor']}"
    for anchor in re.findall(r"\]\((#[^)\s]+)\)", prose):
        assert anchor[1:] in anchors_of(path), f"{path}: {anchor}"


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_path_exists(path):
    for code in CODE.findall(text_of(path)):
        for name in REPOSITORY_PATH.findall(code):
            assert name in MADE or any(ROOT.glob(name)), f"{path}: {name}"


def test_every_quirk_is_in_the_list():
    """The numbers that pages, code and configurations cite are those of ``docs/fidelity.md``."""
    listed = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    sources = [*PAGES, *(ROOT / "mla_jax").rglob("*.py"), *(ROOT / "configs").glob("*.py")]
    for path in sources:
        text = path.read_text(encoding="utf-8")
        for number in re.findall(r"\bQ\d+\b", text):
            assert re.search(rf"^\|[^|]*\b{number}\b", listed, re.MULTILINE), f"{path}: {number}"
        for numbers in re.findall(r"\bquirks?\s+(\d+(?:(?:,\s*|\s+and\s+|\s+to\s+)\d+)*)\b", text):
            for number in re.findall(r"\d+", numbers):
                assert f"| DI-MML quirk {number} |" in listed, f"{path}: quirk {number}"


# ---- Commands and options -----------------------------------------------------------------------


def options_of(command: str) -> set[str]:
    """The options of ``python -m mla_jax.COMMAND``, and of its kinds where it has some."""
    if command in commands.OF_ABSL:
        shared = (ROOT / "mla_jax" / "config" / "command_line.py").read_text()
        room = ROOT / "mla_jax" / command / "__main__.py"
        own = room.read_text() if room.exists() else ""
        return {"config", "help", *re.findall(r'DEFINE_\w+\(\s*"(\w+)"', shared + own)}
    kinds = [c.split()[1:] for c in commands.COMMANDS if c.split()[0] == command]
    texts = [commands.printed(command, [*kind, "--help"]) for kind in kinds]
    return {name for text in texts for name in re.findall(r"--(\w+)", text)}


OPTIONS = {name: options_of(name) for name in sorted({c.split()[0] for c in commands.COMMANDS})}
SCRIPTS = {
    name
    for path in (ROOT / "launch").glob("*.sh")
    for name in re.findall(r"--([a-z]\w*)", path.read_text())
}
KNOWN_FIELDS = {
    *fields.flatten(fields.base_config().to_dict()),
    *(f"method.{s}" for switches in meanings.SWITCHES.values() for s in switches),
    "method.fidelity",
    "method",
    "missing",
}


def is_field(name: str) -> bool:
    """Whether ``--config.NAME`` sets a field; capitals stand for any."""
    stands_for_any = any(part.isupper() for part in name.split(".")) or name in ("", "a.b")
    return stands_for_any or name.startswith("encoders.") or name in KNOWN_FIELDS


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_command_and_option_exists(path):
    text = text_of(path)
    for found in COMMAND.finditer(text):
        name, rest = found["name"], found["rest"].partition(" #")[0]
        assert name in OPTIONS, f"{path}: python -m mla_jax.{name}"
        for option in OPTION.finditer(rest):
            assert option["name"] in OPTIONS[name], f"{path}: {found[0]}"
    known = set().union(*OPTIONS.values(), SCRIPTS, FOREIGN)
    for code in CODE.findall(text):
        for option in OPTION.finditer(code):
            assert option["name"] in known, f"{path}: --{option['name']}"
            field = option["field"].removeprefix(".")
            if option["name"] == "config":
                assert is_field(field), f"{path}: --config.{field}"


def mentioned(option: str) -> list[str]:
    """The values of an option, on all pages, but for those with capitals in the place of names."""
    values = {
        value.rstrip(".,")
        for path in PAGES
        for code in CODE.findall(text_of(path))
        for value in re.findall(rf"--{option}=([^\s`)\]]+)", code)
    }
    return sorted(value for value in values if not re.search(r"[A-Z]{3}|\.\.\.", value))


@pytest.mark.parametrize("value", [v for v in mentioned("config") if v.startswith("configs/")])
def test_every_configuration_can_be_loaded(value):
    assert files.load_config(value).epochs


def test_every_method_study_and_data_set_exists():
    for value in mentioned("methods"):
        for entry in value.split(","):
            assert entry in ("all", "table2") or parse_variant(entry).method in methods.REGISTRY
    known = {path.stem for path in pathlib.Path(studies.__file__).parent.glob("*.py")}
    assert set(mentioned("study")) <= known
    assert set(mentioned("dataset")) <= set(datasets.REGISTRY)


# ---- The generated reference --------------------------------------------------------------------


def test_every_field_has_a_meaning():
    known = fields.flatten(fields.base_config().to_dict())
    closed = {name for name in known if name.partition(".")[0] not in fields.OPEN_GROUPS}
    assert closed | fields.OPEN_GROUPS == set(meanings.FIELDS)
    text = tables.configuration_fields()
    assert all(f"| `{name}` |" in text for name in closed)
    assert set(tables.CHOICES) <= closed


@pytest.mark.parametrize("name", methods.REGISTRY)
def test_every_switch_has_a_meaning(name):
    known = fields.flatten(methods.get(name).FIDELITY["paper"])
    assert set(known) == set(meanings.SWITCHES[name])
    text = tables.switches(name)
    assert all(f"| `{switch}` |" in text for switch in known)
    lines = [line.replace(r"\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == bool(known)


def test_every_field_of_an_encoder_has_a_meaning():
    known = {
        field
        for module in encoders.REGISTRY.values()
        for field in inspect.signature(module).parameters
        if field not in tables.NOT_OF_ENCODERS
    }
    assert known == set(meanings.ENCODER_FIELDS)
    assert all(f"### `{name}`" in tables.encoder_fields() for name in encoders.REGISTRY)


def test_a_meaning_is_sentences():
    texts = [*meanings.FIELDS.values(), *meanings.ENCODER_FIELDS.values()]
    texts += [text for switches in meanings.SWITCHES.values() for text in switches.values()]
    assert [text for text in texts if not text.endswith(".") or "  " in text] == []


def test_published_figures_are_those_of_the_studies():
    text = tables.published_figures("mla")
    assert "79.70" in text and "55.89" in text and published.OWN in text
    assert "no figures" in tables.published_figures("unimodal")


# ---- The site's configuration and its links -----------------------------------------------------


def pages_of(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    inner = nav.values() if isinstance(nav, dict) else nav
    return [page for part in inner for page in pages_of(part)]


def test_the_navigation_has_every_page_once():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    found = pages_of(config["nav"])
    written = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    made = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs/notebooks").glob("*.py")]
    pages = [*written, *(path.with_suffix(".md") for path in made)]
    assert sorted(found) == sorted(map(str, pages))
    text = (ROOT / "docs" / "methods.md").read_text()
    assert all(f"methods/{name}.md" in found and f"[`{name}`]" in text for name in methods.REGISTRY)


def test_figures_are_checked_on_every_page():
    skipped = {ROOT / "docs" / "leaderboard.md", ROOT / "results" / "README.md"}
    skipped |= {ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"}  # they have no figures
    checked = set(pages.pages_of(ROOT)) | {ROOT / "docs" / "misuse.md"}
    assert checked >= set(PAGES) - skipped


def test_links_that_leave_the_docs_stay_in_the_site():
    text = "[a](../mla_jax/train.py) [b](mla.md#switches) [c](../results/x.json) [d](https://e.f)"
    assert links.rewritten(text, "docs/methods.md") == (
        "[a](source/mla_jax/train.py.md) [b](mla.md#switches) [c](source/results/x.json) "
        "[d](https://e.f)"
    )
    deep = links.rewritten("[a](../../mla_jax/train.py)", "docs/methods/mla.md")
    assert deep == "[a](../source/mla_jax/train.py.md)"
    back = links.rewritten("[a](../docs/missing.md)", "results/README.md")
    assert back == "[a](../../missing.md)"
    assert list(links.leaving(text, "docs/methods.md")) == ["mla_jax/train.py", "results/x.json"]
    page = links.as_page(ROOT, "tests/toy_method.py")
    assert page.startswith("---\nsearch:") and "```python\n" in page
    with pytest.raises(FileNotFoundError):
        links.as_page(ROOT, "mla_jax/absent.py")


def test_the_check_of_a_built_site(tmp_path, capsys):
    assert check.main([str(tmp_path)]) == 1
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "b.html").write_text('<h1 id="top">B</h1><a href="../a.html#x">a</a>')
    page = '<a id="x" href="b/b.html#top">b</a><a href="https://e.f">e</a><img src="data:,x">'
    (tmp_path / "a.html").write_text(page)
    assert check.main([str(tmp_path)]) == 0
    wrong = (
        '<a href="c.html">c</a><a href="b/b.html#no">b</a><script src="https://cdn/x.js"></script>'
    )
    (tmp_path / "a.html").write_text(page + wrong)
    capsys.readouterr()
    assert check.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "a.html links to b/b.html#no, which has no such anchor",
        "a.html links to c.html, which is not there",
        "a.html loads https://cdn/x.js",
    ]


def test_a_method_that_there_is_not_has_no_page():
    with pytest.raises(UserError, match="unknown method"):
        tables.switches("mlaa")
