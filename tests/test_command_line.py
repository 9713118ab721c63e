"""What a user sees who types something wrong: one sentence, status 2, nothing half-written."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from mla_jax.datasets import digits

ROOT = pathlib.Path(__file__).parents[1]
TINY = "tests/configs/tiny.py"

MISTAKES = {
    "wrong_path": (["--config=tests/configs/tinny.py"], "no configuration file tests/configs/tinny.py (in tests/configs: tiny.py, "),
    "wrong_path_with_override": (["--config=no/x.py", "--config.seed=1"], "there is no configuration file no/x.py"),
    "no_config": ([], "--config"),
    "unknown_field": ([f"--config={TINY}", "--config.optimizer.learnin_rate=1"], "unknown configuration field 'optimizer.learnin_rate': did you mean 'optimizer.learning_rate'?"),
    "unknown_group": ([f"--config={TINY}", "--config.optimiser.learning_rate=1"], "unknown configuration field 'optimiser.learning_rate': did you mean 'optimizer.learning_rate'?"),
    "unknown_group_of_an_encoder": ([f"--config={TINY}", "--config.encoders.sound.hidden=4"], "unknown configuration field 'encoders.sound.hidden': did you mean 'encoders."),
    "field_of_a_field": ([f"--config={TINY}", "--config.epochs.first=4"], "unknown configuration field 'epochs.first': did you mean 'epochs'?"),
    "field_of_a_tuple": ([f"--config={TINY}", "--config.modalities.first=4"], "unknown configuration field 'modalities.first': did you mean 'modalities'?"),
    "group_before_the_file": (["--config.optimiser.learning_rate=1", f"--config={TINY}"], "'optimiser.learning_rate': did you mean"),
    "field_without_a_file": (["--config.seed=1"], "give --config=FILE"),
    "wrong_type": ([f"--config={TINY}", "--config.epochs=many"], "--config.epochs=many"),
    "unknown_method": ([f"--config={TINY}:method=nla"], "unknown method 'nla': did you mean 'mla'?"),
    "unknown_modality": ([f"--config={TINY}:modalities=audio+txt"], "did you mean 'text'?"),
    "unknown_argument": ([f"--config={TINY}:metod=mla"], "did you mean 'method'?"),
    "unknown_flag": ([f"--config={TINY}", "--wrokdir=x"], "wrokdir"),
    "unknown_switch_value": ([f"--config={TINY}", "--config.method.fusion=entropi"], "unknown value of method.fusion 'entropi': did you mean 'entropy'?"),
    "workdir_is_a_file": ([f"--config={TINY}", "--workdir=README.md"], "README.md is a file: give another --workdir"),
    "workdir_not_writable": ([f"--config={TINY}", "--workdir=/proc/mla_jax/run"], "cannot write to --workdir=/proc/mla_jax/run"),
    "missing_data": ([f"--config={TINY}", "--config.dataset.path=no.npz"], "cannot read the digits file no.npz"),
    "damaged_data": ([f"--config={TINY}", "--config.dataset.path={damaged}"], "is damaged or is something else"),
    "absent_data": (["--config=configs/cremad.py", "--data_dir=no/such"], "no/such/cremad/mla-kaldi_fbank/1.0.0 holds no records: run `python -m mla_jax.prepare --dataset=cremad --raw=FOLDER --data_dir=no/such` on the raw files, or `python -m mla_jax.main --config=configs/cremad.py:synthetic` to try"),
    "data_dir_of_embedded_data": ([f"--config={TINY}", "--data_dir=data"], "dataset 'digits' is not prepared and takes no --data_dir"),
    "data_dir_twice": (["--config=configs/cremad.py", "--data_dir=a", "--config.dataset.data_dir=b"], "--data_dir and --config.dataset.data_dir set the same field"),
    "stray_argument": ([f"--config={TINY}", "image"], "unexpected argument 'image'"),
    "bucket_workdir": ([f"--config={TINY}", "--workdir=s3://bucket/run"], "s3:// is not supported: name a local folder, or one of a Google Cloud"),
    "half_of_the_processes": ([f"--config={TINY}", "--num_processes=2", "--process_id=0"], "--coordinator_address, --num_processes and --process_id go together"),
    "negative_seed": ([f"--config={TINY}", "--config.seed=-1"], "seed must be at least 0"),
    "negative_rate": ([f"--config={TINY}", "--config.optimizer.learning_rate=-0.1"], "optimizer.learning_rate must be at least 0"),
    "empty_width": ([f"--config={TINY}", "--config.encoders.audio.hidden=0"], "encoders.audio.hidden=0 must be at least 1"),
    "weights_without_fixed_fusion": ([f"--config={TINY}", "--config.method.fusion_weights=(0.5,0.5)"], "go with method.fusion=fixed"),
    "a_group_of_fields": ([f"--config={TINY}", "--config.method=concat"], "is a group"),
    "not_a_config": (["--config=setup.cfg"], "setup.cfg"),
}  # fmt: skip
# ruff: noqa: E501


@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_mistake(name, commands, tmp_path):
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(digits.FILE.read_bytes()[:100_000])
    options, sentence = MISTAKES[name]
    options = [option.replace("{damaged}", str(damaged)) for option in options]
    if not any(option.startswith("--workdir") for option in options):
        options.append(f"--workdir={tmp_path / 'run'}")
    done = commands.run("mla_jax.main", options)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert sentence in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()


def test_damaged_arrays(commands, tmp_path):
    """A file that opens but holds something else."""
    arrays = dict(np.load(digits.FILE))
    arrays["image"] = arrays["image"].astype(np.float32)
    np.savez(tmp_path / "other.npz", **arrays)
    options = [f"--config={TINY}:path={tmp_path}/other.npz", f"--workdir={tmp_path / 'run'}"]
    done = commands.run("mla_jax.main", options)
    assert done.returncode == 2
    assert (
        "array 'image' of" in done.stderr
        and "float32[3000, 28, 28]" in done.stderr
        and done.stderr.count("\n") == 1
    )
    assert not (tmp_path / "run").exists()


# ---- Started in the parent folder of a clone ---------------------------------------------------

FINDER = """
import importlib.machinery
import sys


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "mla_jax":
            return None
        parent, _, child = name.rpartition(".")
        if parent == "mla_jax":
            return importlib.machinery.PathFinder.find_spec(name, [{package!r}])


sys.meta_path.insert(sys.meta_path.index(importlib.machinery.PathFinder) + 1, Finder)
"""
"""What an editable install adds to Python: it finds the modules of a package, wherever it lies."""
OPTIONS = {
    "main": [f"--config=mla_jax/{TINY}", "--workdir=run"],
    "compare": [f"--config=mla_jax/{TINY}", "--workdir=run"],
    "benchmark": ["step", f"--config=mla_jax/{TINY}"],
    "prepare": ["--dataset=folder", "--raw=mla_jax"],
    "convert": ["--from=run", "--to=weights.pth"],
    "parity": ["--reference=mla_jax"],
    "evaluate": ["--run=run"],
    "export": ["--run=run", "--to=x.stablehlo"],
    "predict": ["--run=run", "--input=x.npz", "--output=x.csv"],
    "preflight": [f"--config=mla_jax/{TINY}", "--topology=cpu:4", "--workdir=run"],
}


@pytest.fixture(scope="module")
def parent_folder(tmp_path_factory):
    """Commands that are run where ``mla_jax/`` is the clone."""
    folder = tmp_path_factory.mktemp("parent")
    (folder / "mla_jax" / "runs").mkdir(parents=True)  # as any training leaves there
    for name in ("mla_jax", "tests", "configs"):
        (folder / "mla_jax" / name).symlink_to(ROOT / name)
    (folder / "tests").symlink_to(ROOT / "tests")
    (folder / "sitecustomize.py").write_text(FINDER.format(package=str(ROOT / "mla_jax")))
    return folder


@pytest.mark.parametrize("command", OPTIONS)
def test_started_in_the_parent_folder_of_a_clone(command, parent_folder):
    """Python then takes the clone for a package without ``__init__.py``; noticed at the start."""
    folder = parent_folder
    done = subprocess.run(
        [sys.executable, "-m", f"mla_jax.{command}", *OPTIONS[command]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert f"Python takes the folder {folder / 'mla_jax'} for the package mla_jax" in done.stderr
    assert "cd " in done.stderr and done.stderr.count("\n") == 1
    assert done.stdout == "" and not (folder / "run").exists()


# ---- --help ------------------------------------------------------------------------------------

SHARED = {
    "--config": "(required)", "--data_dir": "default: ", "--distributed": "(default: auto)",
    "--compilation_cache": "(default: ~/.cache/mla_jax/xla)", "--num_processes": "default: ",
    "--config.FIELD": "default: ", "method=...": "(default: mla)", "epochs=...": "(default: what the file says)",
    "synthetic": "(default: off)",
}  # fmt: skip
HELP = {
    "main": SHARED | {"--workdir": "default: runs/"},
    "compare": SHARED | {"--methods": "(default: unimodal,concat,late_fusion,mla)",
                         "--seeds": "(default: 0,1,2)"},
    "benchmark": {},
    "benchmark input": {"--batch_size": "(default: 64)", "--workers": "(default: 1,2)"},
    "benchmark step": {"--config": "(required)", "--json": "(default: off)"},
    "prepare": {"--data_dir": "(default: data)", "--csv": "default: examples.csv in --raw"},
    "convert": {"--from": "(required)", "--average_channels": "(default: off)"},
    "parity": {"--modes": "default: all", "--workdir": "(default: none)"},
    "evaluate": {"--split": "(default: test)", "--output": "(default: none)"},
    "export": {"--batch": "(default: symbolic)"},
    "leaderboard": {"--root": "(default: .)", "--name": "(default: none)"},
    "predict": {},
    "preflight": {"--config": "(required)", "--topology": "default: ", "--workdir": "default: runs/",
                  "--measure_input": "(default: off)", "--config.FIELD": "default: "},
}  # fmt: skip
"""Options of each command, and what their entries must say."""


def entries_of(text):
    """``{option: its entry in one line}`` of a help text."""
    found = {}
    for line in text.splitlines():
        if line.startswith("  ") and not line.startswith("   "):
            option = line.split()[0].rstrip(",")
            found[option] = ""
        if found:
            found[option] += " " + line.strip()
    return {option: " ".join(entry.split()) for option, entry in found.items()}


@pytest.mark.parametrize("command", HELP)
def test_help(command, commands):
    """Usage, an example, every option with its default; on stdout, with status 0."""
    name, *kind = command.split()
    done = commands.run(f"mla_jax.{name}", [*kind, "--help"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: python -m mla_jax.{command} ")
    assert f"\n    python -m mla_jax.{command} --" in done.stdout or command == "benchmark"
    assert max(map(len, done.stdout.splitlines())) <= 130
    entries = entries_of(done.stdout.partition("options:")[2])
    for option, words in HELP[command].items():
        assert words in entries[option], entries
    for option, entry in entries.items():
        if option.startswith("--") and option != "--help" and command != "predict":
            assert "default: " in entry or "(required)" in entry, entry


def test_help_on_a_configuration_lists_its_fields(commands):
    done = commands.run("mla_jax.main", ["--help", "--config=configs/digits.py:method=qmf"])
    assert done.returncode == 0
    assert "\n  --config.optimizer.learning_rate=0.05\n" in done.stdout
    assert "\n  --config.method.name=qmf\n" in done.stdout
    wrong = commands.run("mla_jax.main", ["--config=configs/digit.py", "--help"])
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: there is no configuration")


def test_help_starts_no_device():
    command = [sys.executable, "-m", "mla_jax.main", "--help"]
    environment = os.environ | {"JAX_PLATFORMS": "none_such"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "--workdir" in done.stdout
