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
    hooks = {hook["id"]: hook for hook in local["hooks"]}
    called = set(re.findall(r"-m (ruff \w+|mypy)|/(shellcheck)\"", CI))
    named = {"".join(names).replace(" ", "-") for names in called}
    assert named == set(hooks)
    assert re.search(r"mkdocs build .*--strict", CI) and "docs.generate.check" in CI
    for name in named:
        assert hooks[name]["entry"].startswith(".venv/bin/")
        assert name.replace("-", " ") in hooks[name]["entry"]
    assert re.search(hooks["shellcheck"]["files"], "launch/slurm.sh")


def test_the_forms_have_what_github_asks_for():
    for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")):
        form = load(str(path.relative_to(ROOT)))
        if path.name == "config.yml":
            continue
        assert form["name"] and form["description"]
        ids = [field["id"] for field in form["body"]]
        assert len(set(ids)) == len(ids)
        assert all(field["attributes"]["label"] for field in form["body"])
