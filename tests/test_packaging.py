"""What the wheel holds, and that the packaged configurations serve where there is no repository."""

import configparser
import fnmatch
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import mla_jax
from mla_jax.config import files
from mla_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
REQUIRED = (
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
    "grain",
    "numpy",
    "ml-collections",
)


def lines(section: str, option: str) -> list[str]:
    return SETUP[section][option].split()


def libraries(section: str, option: str) -> set[str]:
    """The names of the required libraries, without their versions."""
    return {line.partition(">")[0] for line in lines(section, option)}


def test_every_package_is_listed():
    """The folders with an ``__init__.py``, as ``find_packages`` lists them, and ``configs/``."""
    found = [p.parent.relative_to(ROOT) for p in (ROOT / "mla_jax").rglob("__init__.py")]
    names = [".".join(path.parts) for path in found]
    assert lines("options", "packages") == sorted([*names, "mla_jax.configs"])


def test_every_configuration_is_in_the_wheel():
    """A package of ``package_dir`` has the Python files directly in its folder, and no others."""
    assert SETUP["options"]["package_dir"].split() == ["mla_jax.configs", "=", files.FOLDER]
    folder = ROOT / files.FOLDER
    everything = [p for p in folder.rglob("*") if "__pycache__" not in p.parts]
    assert sorted(everything) == sorted(folder.glob("*.py"))
    assert folder / "digits.py" in everything
    assert not (ROOT / "mla_jax" / "configs").exists(), "it would hide the files in configs/"


def test_every_other_file_is_in_the_wheel():
    package_data = SETUP["options.package_data"]
    packed = set()
    for package in package_data:
        for pattern in package_data[package].replace(",", " ").split():
            matches = set(ROOT.joinpath(*package.split(".")).glob(pattern))
            assert matches, f"{pattern} of {package} is no file"
            packed |= matches
    files_there = {p for p in (ROOT / "mla_jax").rglob("*") if p.is_file()}
    assert packed == {p for p in files_there if p.suffix not in (".py", ".pyc")}
    assert ROOT / "mla_jax" / "py.typed" in packed
    for name in lines("metadata", "license_files"):
        assert (ROOT / name).is_file()


def test_what_is_required():
    assert libraries("options", "install_requires") >= set(REQUIRED)
    media = libraries("options.extras_require", "media")
    assert "array-record" in media and not media & libraries("options", "install_requires")
    assert media <= libraries("options.extras_require", "test")


def write_config(folder: pathlib.Path, seed: int) -> None:
    folder.mkdir(parents=True)
    (folder / "digits.py").write_text(
        "from mla_jax.config import fields\n\n\ndef get_config():\n"
        f"    config = fields.base_config()\n    config.seed = {seed}\n    return config\n"
    )


def test_a_packaged_file_is_found_from_any_folder(tmp_path, monkeypatch):
    here = files.load_config(str(ROOT / "configs" / "digits.py"))
    monkeypatch.chdir(tmp_path)
    assert files.load_config("configs/digits.py") == here
    assert files.load_config("./configs/digits.py:seed=4").seed == 4
    write_config(tmp_path / "configs", seed=8)
    assert files.load_config("configs/digits.py").seed == 8, "a file that is there comes first"


def test_an_installed_package_has_its_own_files(tmp_path, monkeypatch):
    write_config(tmp_path / "site" / "mla_jax" / "configs", seed=9)
    write_config(tmp_path / "site" / "configs", seed=10)
    monkeypatch.setattr(files, "__file__", str(tmp_path / "site/mla_jax/config/files.py"))
    monkeypatch.chdir(tmp_path)
    assert files.load_config("configs/digits.py").seed == 9


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("configs/digit.py", "digits.py"),
        ("digits.py", "no Python files"),
        ("other/digits.py", "digits.py"),
        (".", "no Python files"),
        (f"configs/{'x' * 300}.py", "digits.py"),
    ],
)
def test_a_file_that_is_not_there(name, there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no configuration file .*{there}"):
        files.load_config(name)


def test_files_that_are_no_configuration(tmp_path):
    path = tmp_path / "x.py"
    for content, sentence in {
        "a = 1": "it has no function get_config",
        "a = ": "not Python",
        "a = '\udcff'": "not Python",
    }.items():
        path.write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(UserError, match=f"x.py is not a configuration file: {sentence}"):
            files.load_config(str(path))


BUILD = """
import sys
from setuptools import build_meta

print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


def build(kind: str, source: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
    """An ``sdist`` or a ``wheel`` of a source tree, as pip builds it, with this setuptools."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(output)],
        cwd=source, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return output / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the sdist of this tree, of which neither is built inside it."""
    root = tmp_path_factory.mktemp("built")
    for path in (*ROOT.glob("*.*"), ROOT / "LICENSE"):
        if path.is_file():
            shutil.copy(path, root)
    for folder in ("mla_jax", "configs", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "fixtures")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    sdist = build("sdist", root, root)
    with tarfile.open(sdist) as file:
        file.extractall(root / "unpacked", filter="data")
    return build("wheel", root / "unpacked" / sdist.name.removesuffix(".tar.gz"), root)


def test_the_sdist_makes_the_whole_wheel(wheel):
    """Every file of the package, the configurations and the licences; no tests, nothing else."""
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if not name.endswith("/")}
    here = {p for p in (ROOT / "mla_jax").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    expected = {p.relative_to(ROOT).as_posix() for p in here}
    expected |= {f"mla_jax/configs/{p.name}" for p in (ROOT / "configs").glob("*.py")}
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == expected
    licences = {name.partition("/licenses/")[2] for name in info if "/licenses/" in name}
    assert licences == set(lines("metadata", "license_files"))


def test_a_run_from_the_wheel_in_an_empty_folder(wheel, tmp_path):
    """The digits need neither a repository nor TFDS, and the run's folder has its usual name."""
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    code = [
        "import atexit, runpy, sys",
        "m = sys.modules",
        "atexit.register(lambda: print('tensorflow_datasets' in m, m['mla_jax'].__file__))",
        "sys.argv[0] = 'mla_jax.main'",
        "runpy.run_module('mla_jax.main', run_name='__main__', alter_sys=True)",
    ]
    config = "--config=configs/digits.py:method=concat,modalities=image,epochs=1"
    options = [config, "--config.checkpoint.every_epochs=0"]
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code), *options],
        cwd=tmp_path / "empty",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "empty" / "runs" / "digits-concat-image-1" / "result.json").is_file()
    imported, place = done.stdout.splitlines()[-1].split(" ", 1)
    assert imported == "False", "a run on digits imports tensorflow_datasets"
    assert pathlib.Path(place) == tmp_path / "site" / "mla_jax" / "__init__.py"


def test_no_sentence_installs_from_an_index():
    """mla_jax is on none: extras are installed in the clone, packages by their own names."""
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "launch").iterdir()]
    files += [*(ROOT / "mla_jax").rglob("*.py"), *(ROOT / "configs").glob("*.py")]
    wrong = re.compile(r"pip install[^\n]*\bmla_jax(?!-VERSION)")
    found = [path.name for path in files if wrong.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_the_version_is_the_same_everywhere():
    """The package, the citation, and the newest entry of the changelog, with its day."""
    cited = dict(re.findall(r'^(version|date-released): "?([^"\n]+)', read("CITATION.cff"), re.M))
    newest = re.search(r"^## (\S+) - (\S+)$", read("CHANGELOG.md"), re.M).groups()
    assert newest == (cited["version"], cited["date-released"])
    assert newest[0] == mla_jax.__version__


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_guide_for_contributors():
    """The tests that it names exist, and its parts of the suite have every file, and its
    code map every file and folder of the root."""
    text = read("CONTRIBUTING.md")
    named = re.findall(r"`(test_[\w*]+)`", re.sub(r"`test_heads`", "", text))
    assert [n for n in named if not list((ROOT / "tests").glob(f"{n}.py"))] == []
    table = text.partition("## The suite by parts")[2].partition("\n## ")[0]
    parts = re.findall(r"`(test_[\w*]+)`", table)
    files = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    assert {n for n in files if not any(fnmatch.fnmatchcase(n, p) for p in parts)} == set()
    cells = re.findall(r"^\| (`.*?) \|", text.partition("## Code map")[2], re.M)
    mapped = {name.rstrip("/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    there = {p.name for p in (ROOT / "mla_jax").iterdir()} - {"__pycache__", "py.typed"}
    assert {name for name in mapped if "/" not in name} == there
