"""The one training loop: every method, one process or many, fresh or resumed.

``mla_jax.train`` is this module and can be called: ``mla_jax.train(config, workdir)`` is ``train``.
"""

import contextlib
import pathlib
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from mla_jax import distributed, storage
from mla_jax.config import fields
from mla_jax.data import missing, pipeline, workers
from mla_jax.data.example_checks import remarks
from mla_jax.datasets import Dataset, load_dataset
from mla_jax.errors import Interrupted
from mla_jax.evaluate import TrainingReduction
from mla_jax.functional.optimizers import StepInfo
from mla_jax.program import (
    Program,
    build_program,
    check_vocabularies,
    initial_state,
    masked,
)
from mla_jax.runs import checkpoint, initial, outcome, report
from mla_jax.runs.metrics import RunningMeans
from mla_jax.runs.predictions import save_classes
from mla_jax.runs.progress import ProgressBar
from mla_jax.runs.run import Run
from mla_jax.runs.steps import Profile, StepLog
from mla_jax.runs.workdir import Workdir
from mla_jax.state import TrainState
from mla_jax.telemetry import EVENT, Telemetry

IN_FLIGHT = 2
"""Batches at most that wait for the devices: a signal is heard after the first of them."""


def train(
    config: ConfigDict | FrozenConfigDict,
    workdir: str | pathlib.Path,
    program: Program | None = None,
    devices: Sequence[jax.Device] | None = None,
    say: Callable[[str], None] = print,
) -> Run:
    """Trains to the end, resuming what ``workdir`` holds, and returns the run.

    Args:
      config: a configuration (``mla_jax.load_config``, or ``config.fields.base_config``).
      workdir: the run's directory; one that holds a finished run is opened, not trained.
      program: that of an equal configuration but for the seed, to spare its compilation.
      devices: train and evaluate on these only (default: all).
      say: takes each line meant for a person.

    Raises:
      UserError: the configuration, the data or the directory cannot be used.
      NonFiniteLossError: the loss became infinite or NaN; metrics and checkpoints are kept.
      NoSpaceError: the disk is full; what was saved before is kept.
      Interrupted: a signal came; the checkpoint is saved.

    >>> text = "configs/mfeat.py:method=mla,modalities=pixel+zernike"
    >>> config = mla_jax.load_config(text, {"epochs": 1})
    >>> run = mla_jax.train(config, "runs/mfeat", say=lambda line: None)
    >>> run.result["test"]["examples"], run.result["train"]["steps"]
    (400, 36)
    """
    # ---- What was asked for, and whether this directory can hold it ---------------------------
    started = time.perf_counter()
    config = fields.resolve(config, len(devices or ()))
    say = say if distributed.is_main() else lambda line: None
    dataset = masked(config, load_dataset(config.dataset, config.modalities))
    epoch_length(dataset.training_examples, config)  # or refuses
    run = Run(Workdir(workdir), config, dataset.spec(), dataset.fingerprint, say, devices)
    run.workdir.check(run.identity)
    finished = run.is_finished()
    distributed.check_agreement(
        -1 if finished else run.workdir.newest_checkpoint(),
        f"the processes see different runs in {run.path}: it must lie on a file system that "
        "all of them share",
    )
    if finished:
        if distributed.is_main():
            run.workdir.write_data(run.data)  # runs of earlier versions lack it
        say(f"{run.path} holds a finished run; its result:")
        say(report.closing_lines(run.path, run.result or {}))
        if program:
            run.use(program)
        return run

    # ---- Program, state and a directory of its own ---------------------------------------------
    program = program or build_program(config, dataset, devices)
    check_vocabularies(program.encoders, dataset)
    state = initial_state(program, dataset, config.seed)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    if config.init_from and not run.workdir.newest_checkpoint():
        state = initial.initialize_from(config.init_from, state, say, program.encoders.conventions)
    run.seconds.add("setup", time.perf_counter() - started)

    # ---- Training, and its result --------------------------------------------------------------
    with storage.watched(run.path, checkpoint.size(state)), contextlib.closing(run):
        run.start()
        if distributed.is_main() and dataset.masks:
            missing.save(run.path / missing.MASKS, dataset)
        done, state = fit(run, program, state, dataset)
        run.keep(program, done, state)
        del state  # the run has it, and lets go of it where another epoch was chosen
        with run.seconds("evaluate"):
            test, size = dataset.splits["test"], config.evaluation.batch_size
            chosen = program.placement.replicate(run.load())  # else evaluation compiles again
            classes = program.evaluator.classes(chosen, test, size)
        facts = outcome.missing_facts(run, dataset)
        facts |= outcome.contribution_facts(run, dataset, facts.get("subsets"))
        if distributed.is_main():
            result = outcome.result_of(run, program, parameters) | facts
            assert run.selector.chosen is not None  # the last epoch was evaluated
            counts = run.selector.chosen["test"]["confusion"]
            report.write_report(
                run.path, result, run.identity, counts, run.class_names, remarks(dataset)
            )
            save_classes(run.workdir.predictions, classes)
            run.workdir.finish(result)
    distributed.barrier("result")  # or another process would look for it too early
    say(report.closing_lines(run.path, run.result or {}))
    return run


def fit(run: Run, program: Program, state: TrainState, dataset: Dataset) -> tuple[int, TrainState]:
    """The loop: trains ``state``, or what ``run`` has saved, to the last epoch.

    Returns the number of batches, and the state after them.  Raises as ``train`` does.
    """
    # ---- From the start, or from the newest checkpoint -----------------------------------------
    config, say = run.config, run.say
    train_split = dataset.splits["train"]
    per_epoch = epoch_length(train_split.examples, config)
    calendar = [(stage, e) for stage in program.method.stages for e in range(stage.epochs)]
    total = per_epoch * len(calendar)
    start, means = 0, RunningMeans({}, train_split.fetch)
    # The fresh state is needed all the same: it says how the restored one is laid out on devices.
    if restored := run.restore(state):
        state, start, means.sums = restored
        say(f"resuming {run.path} after batch {start} of {total}")
    else:
        say(report.run_header(config, dataset))
        say("\n".join([report.parameter_table(state.params), *program.method.describe(state)]))

    # ---- The loop ----------------------------------------------------------------------------
    with (
        distributed.StopSignal() as stopping,
        run.recording(start),
        Profile(config.profile, run.path, say) as profile,
    ):
        order = (train_split, config.batch_size, config.seed, start, *distributed.process())
        loader = pipeline.Loader(**config.loader).resolved(train_split)
        if config.loader.workers == workers.AUTO and loader.workers:
            say(f"loader.workers=auto is {loader.workers} here")
        batches: Any = pipeline.training_batches(*order, loader, config.drop_last)
        measure, log = Telemetry(program, dataset, config), StepLog(run, start)
        visited = (train_split, config.batch_size, program.placement, loader)
        reduce_training = TrainingReduction(*visited)
        # One counter for the whole run, over all stages: with the seed it is all that resuming
        # needs, since the order of the batches and every draw follow from it.
        with contextlib.closing(batches), ProgressBar(total, start, say) as bar:
            for number in range(start, total):
                epoch, index = divmod(number, per_epoch)
                stage, stage_epoch = calendar[epoch]
                dispatch = program.dispatches[stage.name]
                done, epoch_ends = number + 1, index + 1 == per_epoch
                compiling = dispatch.compile_seconds
                if stage.phases and not compiling:
                    bar.write_line(report.compiling_line(stage), say)
                at = {"step": done, "epoch": epoch + 1, "stage": stage.name}
                profile.begin(done, state)
                with run.seconds("train"):
                    if index == 0 and stage.on_epoch:
                        state = stage.on_epoch(state.apart(), stage_epoch, reduce_training)
                    with log.waiting:
                        local = next(batches)
                    batch = program.placement.shard(local)
                    # Traced numbers of a fixed type: as Python numbers in the function they would
                    # be constants of the program, which would then be compiled for every batch.
                    info = StepInfo(*map(np.int32, (stage_epoch, index, per_epoch)))
                if stage.phases and measure.due(number):
                    with run.seconds("train"):
                        jax.block_until_ready(state)  # batches in flight are no telemetry
                    with run.seconds("telemetry" if measure.has_compiled(stage) else "compile"):
                        found = measure(stage, state.apart(), batch, info)
                    run.record({"event": EVENT, **at, EVENT: found})
                with run.seconds("train"):
                    for i, phase in enumerate(stage.phases):
                        # Donates the state, so nothing may hold on to the old one.  Returns before
                        # the devices are done; the metrics stay there until they are read.
                        state, metrics = dispatch(i, state, batch, info)
                        for name, of_phase, place in phase.named_metrics(metrics):
                            means.add(done, epoch + 1, name, of_phase, local["index"], place)
                    means.wait(IN_FLIGHT)
                    if epoch_ends or log.due(done) or done % config.check_loss_every == 0:
                        means.drain()
                compiling = dispatch.compile_seconds - compiling
                run.seconds.move("train", "compile", compiling)
                bar.leave_out(compiling)
                profile.end(done, state)

                improved = False
                if epoch_ends or log.due(done):
                    at["learning_rate"] = float(program.optimizer.learning_rate(info))
                if stage.phases and log.due(done):
                    log.write(at, means.newest)
                    bar.note = log.shown
                if epoch_ends:
                    line = {**at, "train": means.means()}
                    means.sums.clear()
                    if evaluation_due(config, epoch + 1, len(calendar)):
                        with run.seconds("evaluate"):
                            scores = evaluate_all(program, state.apart(), dataset, config)
                        line |= {split: outcome.without_counts(scores[split]) for split in scores}
                        if stage is calendar[-1][0]:
                            improved = run.selector.offer(epoch + 1, done, scores)
                    line["time"] = dict(run.seconds.spent)
                    run.record(line)
                    bar.write_line(report.epoch_line(line, len(calendar)), say)
                bar.update(1)

                with run.seconds("checkpoint"):
                    stop = stopping(done)
                    best = improved and run.selector.keeps_best
                    due = checkpoint_due(config, done, epoch, epoch_ends)
                    if stop or best or due or done == total:
                        means.drain()
                        run.save(done, state.apart(), stage.name, means.sums, best)
                if stop and done < total:
                    raise Interrupted(stopping.received or 0, done)
    return total, state.apart()


def epoch_length(examples: int, config: FrozenConfigDict) -> int:
    """Batches per epoch of a run; raises ``UserError`` if there is not even one."""
    return pipeline.batches_per_epoch(examples, config.batch_size, config.drop_last)


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
        name: program.evaluator(state, split, config.evaluation.batch_size, name)
        for name, split in dataset.splits.items()
        if name != "train"
    }


class _CallableModule(types.ModuleType):
    """Lets the module ``mla_jax.train`` stand for its function, whichever is imported first."""

    def __call__(self, *arguments: Any, **options: Any) -> Run:
        return train(*arguments, **options)


sys.modules[__name__].__class__ = _CallableModule
