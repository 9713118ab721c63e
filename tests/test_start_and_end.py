"""What a command says first, while it works, and last."""

import io
import os
import pathlib
import signal
import subprocess
import sys

import jax
import pytest

import mla_jax
from mla_jax import loading, train
from mla_jax.runs import progress, report
from tests.conftest import build_config, build_dataset

ROOT = pathlib.Path(__file__).parents[1]
LINE = f"mla_jax {mla_jax.__version__}: loading jax ...\n"


JAX = """
import gc

class Cycle:
    def __del__(self):
        print("found at the end")

cycle = Cycle()
cycle.itself = cycle
del cycle
raise SystemExit(7 if gc.get_threshold()[0] == 50_000 else 8)
"""
"""In the place of JAX, and of ``tests/startup``: whether cycles are looked for rarely, and at the
end."""


@pytest.mark.parametrize("command", ["main", "evaluate"])
def test_what_comes_before_jax_is_imported(command, tmp_path):
    (tmp_path / "jax.py").write_text(JAX)
    done = subprocess.run(
        [sys.executable, "-m", f"mla_jax.{command}", "--config=configs/digits.py"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 7
    expected = (LINE, "") if command == "main" else ("", LINE)
    assert (done.stdout, done.stderr) == expected


@pytest.mark.parametrize(
    ("command", "environment", "said"),
    [
        ("main --config=x.py", {}, True),
        ("main --config=x.py --process_id=0", {"SLURM_PROCID": "0"}, True),
        ("main --config=x.py --process_id=1", {}, False),
        ("main --config=x.py", {"SLURM_PROCID": "3"}, False),
        ("compare --help", {}, False),
        ("benchmark step --json", {}, False),
        ("prepare --dataset=ave", {}, False),
    ],
)
def test_who_says_that_jax_is_loaded(command, environment, said, monkeypatch, capsys, request):
    for name in loading.RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    loading.say_loading(["python", "-X", "dev", "-m", *f"mla_jax.{command}".split()])
    assert capsys.readouterr().out == (LINE if said else "")
    # Ctrl-C ends the process while JAX is imported, and raises KeyboardInterrupt afterwards.
    assert (signal.getsignal(signal.SIGINT) is signal.SIG_DFL) == said
    loading.loaded()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("command_line", "command"),
    [
        ("python -m mla_jax.main --x=-m", "main"),
        ("python -um mla_jax.compare", "compare"),
        ("python -X dev -mmla_jax.prepare -m y", "prepare"),
        ("python -m foo.mla_jax", ""),
        ("python -m foo", ""),
        ("python -m", ""),
        ("python train.py -n mla_jax.main", ""),
    ],
)
def test_how_python_is_told_a_module(command_line, command):
    assert loading.command_of(command_line.split())[0] == command


def test_an_output_that_cannot_be_written(monkeypatch):
    def full(*words, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.print", full)
    monkeypatch.setattr(loading.signal, "signal", lambda *arguments: None)
    loading.say_loading(["python", "-m", "mla_jax.main"])


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_without_a_terminal_there_is_a_line_now_and_then(clock):
    """Not while other lines come; the time left leaves compiling out."""
    said = []
    with progress.ProgressBar(100, 10, said.append) as bar:
        clock.now += 500  # compiles
        bar.leave_out(500)
        bar.update(1)
        assert said == []
        for _ in range(9):
            clock.now += 4
            bar.update(1)
        clock.now += 4
        bar.write_line("epoch 1", said.append)
        for _ in range(8):
            clock.now += 4
            bar.update(1)
    assert said == [
        "batch 19 of 100, about 04:48 left",
        "epoch 1",
        "batch 28 of 100, about 04:48 left",
    ]


def test_a_bar_on_a_terminal_leaves_compiling_out(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    said = []
    with progress.ProgressBar(100, 0, said.append) as bar:
        start = bar.start_t
        bar._time = lambda: start + 502
        bar.leave_out(500)
        bar.update(1)
        assert bar.format_dict["elapsed"] == pytest.approx(2)
        assert bar._ema_dt() == pytest.approx(2)  # from which the rate is computed
    assert said == []


def test_the_lines_of_a_run(tmp_path, monkeypatch):
    dataset = build_dataset()
    monkeypatch.setattr(train, "load_dataset", lambda *arguments: dataset)
    left_out = []
    monkeypatch.setattr(
        progress.ProgressBar, "leave_out", lambda self, seconds: left_out.append(seconds)
    )
    for lines in ([], []):
        run = train.train(
            build_config(epochs=1), tmp_path / "run", None, jax.devices()[:1], lines.append
        )
        path = tmp_path / "run"
        assert lines[-1].splitlines()[-1].strip() == (
            f"{path}: result.json, report.md, curves.png, confusion.png"
        )
        assert all(path.joinpath(name).exists() for name in ("report.md", "curves.png"))
        if len(lines) > 2:
            assert lines.index("compiling 2 programs (a, b) ...") == 2
            assert sum("compiling" in line for line in lines[:-1]) == 1
    assert left_out[0] > 0 and not any(left_out[1:])
    assert run.result["train"]["compile_seconds"] == pytest.approx(left_out[0], abs=1e-3)


@pytest.mark.parametrize(
    ("figure", "text"),
    [(10_200.4, "10,200"), (12.3, "12"), (9.87, "9.9"), (0.0423, "0.042"), (0.0, "below 0.05")],
)
def test_few_examples_per_second_are_not_0(figure, text):
    assert report.rate(figure) == f"{text} examples/s"
