"""What a user sees who types something wrong: one sentence, status 2, nothing half-written."""

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
    "data_dir_twice": (["--config=configs/cremad.py", "--data_dir=a", "--config.dataset.data_dir=b"], "--data_dir and --config.dataset.data_dir say the same"),
    "stray_argument": ([f"--config={TINY}", "image"], "unexpected argument 'image'"),
    "bucket_workdir": ([f"--config={TINY}", "--workdir=gs://bucket/run"], "gs://bucket/run is not a local path: mount the bucket"),
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


def test_help_lists_the_options():
    command = [sys.executable, "-m", "mla_jax.main", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "--workdir" in done.stdout and "configs/digits.py" in done.stdout
