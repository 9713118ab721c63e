"""``launch/job.yaml`` and ``launch/Dockerfile`` agree with Kubernetes, the project and each other.

No cluster, no Docker and no network is needed.
"""

import copy
import fnmatch
import inspect
import pathlib
import re
import shutil
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

from mla_jax.config import command_line
from tests.test_packaging import SETUP, lines

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
ROOT = LAUNCH.parent
SERVICE, JOB = yaml.safe_load_all((LAUNCH / "job.yaml").read_text())
POD = JOB["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
OLDEST = "1.31"  # the first in which a Job's podFailurePolicy is stable
VERSIONS = (OLDEST, kubernetes_validate.latest_version())


def check(manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(version):
    for manifest in (SERVICE, JOB):
        check(manifest, version)


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ((), "completion", 2),
        ((), "parallelism", "two"),
        (("template", "spec"), "terminationGracePeriod", 300),
        (("podFailurePolicy", "rules", 0), "action", None),
    ],
)
def test_the_check_finds_mistakes(where, name, value):
    wrong = copy.deepcopy(JOB)
    place = wrong["spec"]
    for key in where:
        place = place[key]
    place[name] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong, OLDEST)


def test_the_pods_find_pod_0():
    """Pod I of an Indexed Job is JOB-I, and has that name where a headless Service selects it."""
    name = JOB["metadata"]["name"]
    assert JOB["spec"]["completionMode"] == "Indexed"
    assert SERVICE["metadata"]["name"] == POD["subdomain"]
    assert SERVICE["spec"]["clusterIP"] == "None"
    assert SERVICE["spec"]["publishNotReadyAddresses"] is True
    assert SERVICE["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    options = dict(arg.removeprefix("--").split("=", 1) for arg in CONTAINER["args"])
    port = SERVICE["spec"]["ports"][0]["port"]
    assert options["coordinator_address"] == f"{name}-0.{POD['subdomain']}:{port}"
    assert CONTAINER["ports"] == [{"name": "coordinator", "containerPort": port}]
    assert options["process_id"] == "$(JOB_COMPLETION_INDEX)"
    processes = JOB["spec"]["completions"]
    assert JOB["spec"]["parallelism"] == processes == int(options["num_processes"])
    assert "command" not in CONTAINER, "the image's entry point is mla_jax.main"
    assert options["distributed"] == "on"
    defined = inspect.getsource(command_line)
    assert [name for name in options if f'"{name}"' not in defined] == []


def test_a_pod_that_is_stopped_has_time_to_save_and_is_no_root():
    assert POD["terminationGracePeriodSeconds"] >= 120
    assert POD["restartPolicy"] == "Never", "podFailurePolicy needs it"
    assert POD["securityContext"]["runAsNonRoot"] is True
    (failing,) = [r for r in JOB["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in r]
    assert failing["onExitCodes"]["containerName"] == CONTAINER["name"]
    assert 143 not in failing["onExitCodes"]["values"], "SIGTERM: it goes on in another pod"


def test_hadolint():
    beside = pathlib.Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    assert hadolint, "hadolint is missing: install the test extra"
    done = subprocess.run(
        [hadolint, "--no-color", str(LAUNCH / "Dockerfile")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def instructions() -> list[tuple[str, str]]:
    found = re.findall(r"^([A-Z]+) (.*)$", (LAUNCH / "Dockerfile").read_text(), re.MULTILINE)
    return [(name, words.strip()) for name, words in found]


def copied() -> list[str]:
    return [p for name, words in instructions() if name == "COPY" for p in words.split()[:-1]]


def test_the_image_has_what_the_installation_needs():
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().split()
    for path in copied():
        assert (ROOT / path).exists() and f"!{path}" in ignored
    needed = [
        "setup.cfg",
        "pyproject.toml",
        "mla_jax",
        *SETUP["options"]["package_dir"].split()[2:],
    ]
    needed += [SETUP["metadata"]["long_description"].removeprefix("file: ")]
    needed += lines("metadata", "license_files")
    for path in needed:
        assert any(fnmatch.fnmatch(path, pattern) for p in copied() for pattern in (p, f"{p}/*"))


def test_the_image_of_a_user_who_is_not_root():
    said = dict(instructions())
    assert said["USER"] == "${RUN_AS}" and "RUN_AS=1000" in said["ARG"]
    assert POD["securityContext"]["runAsUser"] == 1000
    assert said["ENTRYPOINT"] == '["python", "-m", "mla_jax.main"]'
    assert said["FROM"].startswith("python:${PYTHON}-slim")
    python = next(words for _, words in instructions() if words.startswith("PYTHON="))
    assert f"Python :: {python.removeprefix('PYTHON=')}" in SETUP["metadata"]["classifiers"]
