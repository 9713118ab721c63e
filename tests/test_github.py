"""The workflow, the hooks and the forms do what ``.ci/run`` and ``setup.cfg`` say."""

import pathlib
import re

import yaml

from tests.test_packaging import SETUP

ROOT = pathlib.Path(__file__).parents[1]
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def load(path: str):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_workflow_runs_the_same_script_on_every_supported_python():
    job = load(".github/workflows/ci.yml")["jobs"]["run"]
    (step,) = [step for step in job["steps"] if "run" in step]
    assert step["run"] == ".ci/run" and "PYTHON_BASE" in step["env"]
    supported = re.findall(r":: (3\.\d+)", SETUP["metadata"]["classifiers"])
    assert job["strategy"]["matrix"]["python"] == supported


def test_the_hooks_are_the_linters_of_ci():
    (local,) = load(".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"] for hook in local["hooks"]]
    for entry in entries:
        words = entry.removeprefix(".venv/bin/").removeprefix("python ").split()
        assert " ".join(words[:-1] if words[-1] == "--force-exclude" else words) in (
            CI.replace('shellcheck"', "shellcheck")
        )
    assert re.search(local["hooks"][-1]["files"], "launch/slurm.sh")
    for linter in re.findall(r"-m (ruff \w+|mypy|pyright)|(shellcheck)", CI):
        assert any("".join(linter) in entry for entry in entries), linter


def test_the_forms_have_what_github_asks_for():
    for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")):
        form = load(str(path.relative_to(ROOT)))
        if path.name == "config.yml":
            continue
        assert form["name"] and form["description"]
        ids = [field["id"] for field in form["body"]]
        assert len(set(ids)) == len(ids)
        assert all(field["attributes"]["label"] for field in form["body"])
