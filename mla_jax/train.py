"""The one training loop: every method, one process or many, fresh or resumed."""

import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

import mla_jax
from mla_jax import configuration, convert, distributed, report
from mla_jax.checkpoint import Checkpoints
from mla_jax.data import pipeline
from mla_jax.data.transform import create_transform
from mla_jax.datasets import Dataset, load_dataset
from mla_jax.dispatch import Dispatch
from mla_jax.encoders import Encoders, create_encoders
from mla_jax.evaluate import Evaluator, TrainingVisit
from mla_jax.methods import Method, Problem, create_method
from mla_jax.methods.base import Stage
from mla_jax.methods.transformed import transformed
from mla_jax.metrics import MetricsFile, NonFiniteLossError, RunningMeans
from mla_jax.optim import Optimizer, create_optimizer
from mla_jax.progress import ProgressBar, Stopwatch
from mla_jax.selection import Selector
from mla_jax.state import Clock, TrainState
from mla_jax.workdir import Workdir


class Interrupted(Exception):  # noqa: N818 - it is an outcome, not an error
    """The run stopped at a signal, with a checkpoint; ``signal`` is the signal's number."""

    def __init__(self, signal: int, batches: int):
        super().__init__(f"stopped after batch {batches}, checkpoint saved: same command resumes")
        self.signal = signal


class Program(NamedTuple):
    """What is compiled: it depends on the configuration but not on the seed."""

    encoders: Encoders
    method: Method
    optimizer: Optimizer
    dispatches: dict[str, Dispatch]
    """``{stage name: its phases}``."""
    evaluator: Evaluator
    layout: distributed.Layout


def build_program(
    config: FrozenConfigDict, dataset: Dataset, devices: Sequence[jax.Device] | None = None
) -> Program:
    """The method of a resolved configuration, on all devices or on the ones given."""
    layout = distributed.create_layout(config.batch_size, devices)
    encoders = create_encoders(
        config.encoders, config.modalities, config.feature_dim, jnp.dtype(config.compute_dtype)
    )
    optimizer = create_optimizer(config.optimizer, config.epochs)
    problem = Problem(dataset.classes, config.epochs, dataset.splits["train"].examples)
    method = create_method(config.method, encoders, optimizer, problem)
    streams = encoders.fitted(dataset.streams)
    transform = dataset.transform or create_transform(streams, dataset.modalities)
    method = transformed(method, transform)
    dispatches = {s.name: Dispatch([p.update for p in s.phases]) for s in method.stages}
    return Program(encoders, method, optimizer, dispatches, Evaluator(method, devices), layout)


def initial_state(program: Program, dataset: Dataset, seed: int) -> TrainState:
    """A fresh state, on every device."""
    sample = dataset.splits["train"].fetch(np.arange(1))
    state = jax.jit(program.method.init)(jax.random.key(seed), sample)
    return program.layout.replicate(state)


def run(
    config: ConfigDict | FrozenConfigDict,
    path: str | pathlib.Path,
    program: Program | None = None,
    devices: Sequence[jax.Device] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains to the end, resuming what ``path`` holds, and returns the content of ``result.json``.

    Args:
      config: a configuration (``configuration.base_config``).
      path: the run's directory; one that holds a finished run returns its result.
      program: that of an equal configuration but for the seed, to spare its compilation.
      devices: train and evaluate on these only (default: all).
      say: takes each line meant for a person.

    Raises:
      UserError: the configuration, the data or the directory cannot be used.
      NonFiniteLossError: the loss became infinite or NaN; metrics and checkpoints are kept.
      Interrupted: a signal came; the checkpoint is saved.
    """
    # ---- What was asked for, and whether this directory can hold it ---------------------------
    started = time.perf_counter()
    config = configuration.resolve(config)
    say = say if distributed.is_main() else lambda line: None
    dataset = load_dataset(config.dataset, config.modalities)
    identity = {"config": configuration.to_json(config), "data": dataset.fingerprint}
    workdir = Workdir(path)
    workdir.check(identity)
    finished = workdir.result()
    distributed.check_agreement(
        -1 if finished else workdir.newest_checkpoint(),
        f"the processes see different runs in {workdir.path}: it must lie on a file system that "
        "all of them share",
    )
    if finished is not None:
        say(f"{workdir.path} holds a finished run; its result:")
        say(report.result_table(finished))
        return finished

    # ---- Program, state and a directory of its own ---------------------------------------------
    program = program or build_program(config, dataset, devices)
    per_epoch = pipeline.batches_per_epoch(dataset.splits["train"], config.batch_size)
    selector, seconds = Selector(config, dataset), Stopwatch()
    state = initial_state(program, dataset, config.seed)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    if config.init_from and not workdir.newest_checkpoint():
        state = convert.initialize_from(config.init_from, state, say, program.encoders.conventions)
    if distributed.is_main():
        workdir.create(identity)
    distributed.barrier("workdir")
    seconds.add("setup", time.perf_counter() - started)

    # ---- Training, and its result --------------------------------------------------------------
    try:
        fit(config, dataset, program, state, workdir, identity, selector, seconds, say)
        stages = program.method.stages
        result = summarize(config, dataset, stages, selector, seconds, per_epoch, parameters)
        if distributed.is_main():
            counts = selector.chosen["test"]["confusion"]
            report.write_report(workdir.path, result, identity, counts)
            workdir.finish(result)
    finally:
        workdir.release()
    distributed.barrier("result")
    say(report.result_table(result))
    return result


def fit(
    config: FrozenConfigDict,
    dataset: Dataset,
    program: Program,
    state: TrainState,
    workdir: Workdir,
    identity: dict[str, Any],
    selector: Selector,
    seconds: Stopwatch,
    say: Callable[[str], None],
) -> None:
    """The loop: trains ``state``, or what ``workdir`` holds of the run, to the last epoch.

    ``selector`` and ``seconds`` are filled in on the way.  Raises as ``run`` does.
    """
    # ---- From the start, or from the newest checkpoint -----------------------------------------
    train_split = dataset.splits["train"]
    per_epoch = pipeline.batches_per_epoch(train_split, config.batch_size)
    calendar = [(stage, e) for stage in program.method.stages for e in range(stage.epochs)]
    total = per_epoch * len(calendar)
    checkpoints = Checkpoints(workdir.checkpoints, config.checkpoint.keep)
    start, means = 0, RunningMeans({}, train_split.fetch)
    if restored := checkpoints.restore(state, damaged=say):
        state, progress = restored
        workdir.require_same(progress["identity"], identity)
        start, means.sums, selector.chosen = (progress[k] for k in ("batches", "sums", "chosen"))
        seconds.continue_from(progress["seconds"])
        say(f"resuming {workdir.path} after batch {start} of {total}")
        if selector.keeps_best and selector.chosen:
            checkpoints.pin(selector.chosen["step"])
    else:
        say(report.run_header(config, dataset))
        say("\n".join([report.parameter_table(state.params), *program.method.describe(state)]))
    file = MetricsFile(workdir.metrics, start) if distributed.is_main() else None
    order = (train_split, config.batch_size, config.seed, start, *distributed.process())
    batches = pipeline.training_batches(*order, pipeline.Loader(**config.loader))

    def snapshot(done: int) -> dict[str, Any]:
        return {
            "batches": done,
            "stage": calendar[(done - 1) // per_epoch][0].name,
            "sums": means.sums,
            "chosen": selector.chosen,
            "seconds": seconds.spent,
            "identity": identity,
        }

    # ---- The loop ----------------------------------------------------------------------------
    bar = ProgressBar(total, start)
    visit = TrainingVisit(train_split, config.batch_size, program.layout)
    try:
        with distributed.StopSignal() as stopping, bar:
            for number in range(start, total):
                epoch, index = divmod(number, per_epoch)
                stage, stage_epoch = calendar[epoch]
                dispatch = program.dispatches[stage.name]
                done, epoch_ends = number + 1, index + 1 == per_epoch
                compiling = dispatch.compile_seconds
                with seconds("train"):
                    if index == 0 and stage.on_epoch:
                        state = stage.on_epoch(state, stage_epoch, visit)
                    local = next(batches)
                    batch = program.layout.shard(local)
                    clock = Clock(*map(np.int32, (stage_epoch, index, per_epoch)))
                    for i, phase in enumerate(stage.phases):
                        state, metrics = dispatch(i, state, batch, clock)
                        means.add(done, epoch + 1, phase.name, metrics, local["index"])
                    if epoch_ends or done % config.log_every_steps == 0:
                        means.drain()
                seconds.move("train", "compile", dispatch.compile_seconds - compiling)

                improved = False
                if epoch_ends:
                    line = {"step": done, "epoch": epoch + 1, "stage": stage.name}
                    line["learning_rate"] = float(program.optimizer.learning_rate(clock))
                    line["train"] = means.means()
                    means.sums.clear()
                    if evaluation_due(config, epoch + 1, len(calendar)):
                        with seconds("evaluate"):
                            scores = evaluate_all(program, state, dataset, config)
                        line |= {split: without_counts(scores[split]) for split in scores}
                        if stage is calendar[-1][0]:
                            improved = selector.offer(epoch + 1, done, scores)
                    line["time"] = dict(seconds.spent)
                    if file:
                        file.write(line)
                    bar.write_line(report.epoch_line(line, len(calendar)), say)
                bar.update(1)

                with seconds("checkpoint"):
                    stop = stopping(done)
                    if keep := improved and selector.keeps_best:
                        checkpoints.pin(done)
                    due = checkpoint_due(config, done, epoch, epoch_ends)
                    if stop or keep or due or done == total:
                        means.drain()
                        checkpoints.save(done, state, snapshot(done))
                if stop and done < total:
                    raise Interrupted(stopping.received, done)
    except NonFiniteLossError as error:
        if file:
            file.write({"event": "non-finite loss", **error.report})
        raise
    finally:
        batches.close()
        checkpoints.close()
        if file:
            file.close()


def evaluation_due(config: FrozenConfigDict, epoch: int, epochs: int) -> bool:
    """Whether to evaluate after epoch number ``epoch`` (from 1); always after the last."""
    return epoch == epochs or epoch % config.evaluation.every_epochs == 0


def checkpoint_due(config: FrozenConfigDict, done: int, epoch: int, epoch_ends: bool) -> bool:
    """Whether to save after ``done`` batches, in epoch ``epoch`` (from 0)."""
    every_steps, every_epochs = config.checkpoint.every_steps, config.checkpoint.every_epochs
    if every_steps and done % every_steps == 0:
        return True
    return bool(epoch_ends and every_epochs and (epoch + 1) % every_epochs == 0)


def evaluate_all(
    program: Program, state: TrainState, dataset: Dataset, config: FrozenConfigDict
) -> dict[str, dict[str, Any]]:
    """The figures of every split but the training split."""
    return {
        name: program.evaluator(state, split, config.evaluation.batch_size)
        for name, split in dataset.splits.items()
        if name != "train"
    }


def without_counts(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of one split less the confusion counts, which go to ``confusion.json``."""
    return {key: value for key, value in figures.items() if key != "confusion"}


def summarize(
    config: FrozenConfigDict,
    dataset: Dataset,
    stages: Sequence[Stage],
    selector: Selector,
    seconds: Stopwatch,
    per_epoch: int,
    parameters: int,
) -> dict[str, Any]:
    """The content of ``result.json``."""
    epochs = sum(stage.epochs for stage in stages)
    examples = epochs * per_epoch * config.batch_size
    return {
        "dataset": dataset.name,
        "method": config.method.name,
        "fidelity": config.method.fidelity,
        "protocol": config.protocol,
        "seed": config.seed,
        "modalities": list(config.modalities),
        "parameters": parameters,
        "selection": {"rule": selector.rule, **{k: selector.chosen[k] for k in ("epoch", "step")}},
        **{s: without_counts(selector.chosen[s]) for s in dataset.splits if s != "train"},
        "train": {
            "epochs": epochs,
            "stages": {stage.name: stage.epochs for stage in stages},
            "batches": epochs * per_epoch,
            "steps": sum(s.epochs * len(s.phases) for s in stages) * per_epoch,
            "seconds": round(seconds.spent["train"], 3),
            "examples_per_second": round(examples / max(seconds.spent["train"], 1e-9), 1),
            "compile_seconds": round(seconds.spent["compile"], 3),
            "evaluate_seconds": round(seconds.spent["evaluate"], 3),
            "checkpoint_seconds": round(seconds.spent["checkpoint"], 3),
        },
        "versions": {
            "mla_jax": mla_jax.__version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "commit": source_commit(),
    }


def source_commit() -> str:
    """The commit of the source this runs from, ``-dirty`` if it was changed since; empty where
    mla_jax is installed without its repository."""
    folder = pathlib.Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")) != folder.parent.resolve():
            return ""
        return git("describe", "--always", "--dirty", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return ""
