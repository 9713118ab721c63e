"""What ``--dry-run`` prints is what is run: pasted into a shell, it makes the same calls."""

import shutil

import pytest

from tests.stand_ins import StandIns

ODD = [
    "--config=configs/digits.py:method=mla",
    '--config.a=it\'s "5" $HOME `x` \\',
    "--b=",
    "--c=é ;",
]
TPU = {"TPU_NAME": "mla", "ZONE": "us-west4-a"}
GKE = {"PROJECT": "p", "ZONE": "us-west4-a", "CLUSTER": "c", "IMAGE": "host/p/r/mla_jax:1"}
BASE = """
[ "$1 $2" != "-m venv" ] || { mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; }
"""


@pytest.fixture
def stand_ins(tmp_path):
    made = StandIns(tmp_path)
    made.add("gcloud", "xpk", "kubectl", "docker", "git", "srun")
    made.add("python3", then=BASE)
    return made


def check(stand_ins, command, environment, before=lambda: None):
    """The calls of the script, which are those of its dry run pasted into a shell.

    ``before`` is called before the one and the other.
    """
    at = 2 if command[0].endswith(("tpu_pod.sh", "gke.sh")) else 1
    dry = stand_ins.run(*command[:at], "--dry-run", *command[at:], **environment)
    assert dry.returncode == 0, dry.stderr
    assert calls_of(stand_ins) == [], "a dry run runs nothing"
    before()
    done = stand_ins.run(*command, **environment)
    assert done.returncode == 0, done.stderr
    real = calls_of(stand_ins)
    before()
    pasted = stand_ins.run("bash", "-euc", dry.stdout, **environment)
    assert pasted.returncode == 0, pasted.stderr
    assert calls_of(stand_ins) == real != []
    return real


def calls_of(stand_ins):
    """The calls, sorted, but for the look at Python's version."""
    return sorted(call for call in stand_ins.called() if call[1] != "-c")


def test_it_can_be_read(stand_ins):
    """An option per line, in single quotes where need be."""
    options = ["--config=a", "--config.name=a b's", "--workdir=gs://bucket-one/run"]
    done = stand_ins.run("launch/slurm.sh", "--dry-run", *options, PYTHON="python")
    assert done.stdout == (
        "srun \\\n"
        "    --kill-on-bad-exit=1 \\\n"
        "    python -m mla_jax.main \\\n"
        "    --distributed=auto \\\n"
        "    --config=a \\\n"
        "    --config.name='a b'\\''s' \\\n"
        "    --workdir=gs://bucket-one/run\n\n"
    )
    names = TPU | {"EXTRAS": "tpu"}
    done = stand_ins.run("launch/tpu_pod.sh", "setup", "--dry-run", **names)
    assert '\n.venv/bin/python -m pip install --quiet --editable ".[tpu]"\'\n' in done.stdout


def test_any_word_survives(stand_ins):
    """As one of a command, and as one of a command inside of an option."""
    words = [
        "",
        "a b",
        "it's",
        '"',
        "\\",
        "$HOME",
        "`x`",
        "a\nb",
        "~",
        "*",
        "{a,b}",
        "#",
        "!!",
        "é",
        "-n",
    ]
    words += [f"--name={word}" for word in words] + ["--'=a", "--a b", "a=b", "--", "--x", "y"]
    stand_ins.add("there")
    script = 'source launch/perform.sh; {} there "$@"'
    for text in ("show", "line"):
        printed = stand_ins.run("bash", "-c", script.format(text), "bash", *words)
        assert stand_ins.run("bash", "-c", printed.stdout).returncode == 0
        assert stand_ins.called() == [["there", *words]]
    nested = 'source launch/perform.sh; show bash -c "$(line there "$@")"'
    printed = stand_ins.run("bash", "-c", nested, "bash", *words)
    assert stand_ins.run("bash", "-c", printed.stdout).returncode == 0
    assert stand_ins.called() == [["there", *words]]


@pytest.mark.parametrize("command", ["create", "setup", "run", "stop", "delete"])
def test_tpu_pod(stand_ins, command):
    calls = check(stand_ins, ["launch/tpu_pod.sh", command, "--", *ODD], TPU)
    assert {call[0] for call in calls} <= {"gcloud", "git"}
    assert len(calls) == (3 if command == "setup" else 1)


@pytest.mark.parametrize("command", ["create", "image", "run", "logs", "stop", "delete"])
def test_gke(stand_ins, command):
    calls = check(stand_ins, ["launch/gke.sh", command, "--", *ODD], GKE)
    assert {call[0] for call in calls} <= {"gcloud", "kubectl", "docker", "xpk"}
    if command != "run":
        return
    (told,) = [word.partition("=")[2] for word in calls[0] if word.startswith("--command=")]
    assert "\n" not in told, "xpk puts it into a block of YAML, indented"
    # xpk runs it in a subshell and signals that: exec makes the subshell the run.
    stand_ins.add("python")
    assert stand_ins.run("bash", "-c", f"({told})").returncode == 0
    assert stand_ins.called() == [["python", "-m", "mla_jax.main", "--distributed=on", *ODD]]
    assert told.startswith("exec ")


@pytest.mark.parametrize("tasks", ["1", "2"])
def test_slurm(stand_ins, tasks):
    environment = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": tasks, "SLURM_CPUS_PER_TASK": "8"}
    (call,) = check(stand_ins, ["launch/slurm.sh", *ODD], environment | {"PYTHON": "my python"})
    mode = {"1": "--distributed=auto", "2": "--distributed=on"}[tasks]
    assert call[1:] == [
        "--kill-on-bad-exit=1", "--cpus-per-task=8", "my python", "-m", "mla_jax.main", mode,
        *ODD,
    ]  # fmt: skip


def test_local_multihost(stand_ins, tmp_path):
    python = stand_ins.add("a python", then='echo "$JAX_NUM_CPU_DEVICES $JAX_PLATFORMS"')
    command = ["launch/local_multihost.sh", "--processes=3", "--devices=4", "--port=4321", *ODD]
    workdir = tmp_path / "some runs" / "one"
    calls = check(stand_ins, [*command, f"--workdir={workdir}"], {"PYTHON": str(python)})
    assert [call[-1] for call in calls] == [f"--process_id={i}" for i in range(3)]
    for i in (1, 2):
        log = workdir.with_name(f"one.process-{i}.log")
        assert log.read_text() == "4 cpu\n", "that of the pasted commands"


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_what_installs(stand_ins, script, tmp_path):
    venv = tmp_path / "a venv"
    environment = {"PYTHON_BASE": str(tmp_path / "python3"), "MLA_JAX_VENV": str(venv)}
    calls = check(
        stand_ins, [f"launch/{script}", "-k", "a or b"], environment,
        before=lambda: shutil.rmtree(venv, ignore_errors=True),
    )  # fmt: skip
    modules = {call[2]: call for call in calls if call[1] == "-m"}
    run = "mla_jax.compare" if script == "quickstart.sh" else "pytest"
    assert set(modules) == {"venv", "pip", run}
    assert modules[run][-2:] == ["-k", "a or b"]
