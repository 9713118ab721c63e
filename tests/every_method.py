"""A few batches of every method on synthetic data, in this process or as one of several.

python -m tests.every_method OUTPUT.json PORT COUNT INDEX

The processes then train on data in which an example is NaN, in the folder beside OUTPUT.json; each
of them prints how that ended.
"""

import json
import pathlib
import sys
from unittest import mock

import jax
import numpy as np
from jax.experimental import multihost_utils

from mla_jax import distributed, methods, train
from mla_jax.config import fields
from mla_jax.data import pipeline
from mla_jax.errors import NonFiniteLossError
from mla_jax.evaluate import TrainingReduction
from mla_jax.functional.optimizers import StepInfo
from mla_jax.program import build_program, initial_state
from tests.conftest import build_config, build_dataset

BATCHES = 3  # of which the last lacks four examples
BAD = 33  # in the share of process 1 of batch 3, the first of the second epoch
LINEAR = {"name": "features", "projection": "linear"}  # compiles in no time


def losses_of(name: str, devices=None) -> list[float]:
    """The losses of every phase of every stage over two short epochs, on all devices or these."""
    modalities = ("a",) if name == "unimodal" else ("a", "b")
    dataset = build_dataset(modalities, train=44, missing=0.2)
    config = fields.resolve(build_config(modalities, name, encoder=LINEAR))
    program = build_program(config, dataset, devices)
    gathers = AssertionError("every array was sent to every process, to be compared")
    with mock.patch.object(multihost_utils, "assert_equal", side_effect=gathers):
        state = initial_state(program, dataset, seed=0)
    split = dataset.splits["train"]
    reduce_training = TrainingReduction(split, config.batch_size, program.placement)
    losses = []
    for stage in program.method.stages:
        for epoch in range(2):
            if stage.on_epoch:
                state = stage.on_epoch(state, epoch, reduce_training)
            batches = pipeline.training_batches(
                split, config.batch_size, epoch, 0, *distributed.process(), drop_last=False
            )
            for i in range(BATCHES):
                batch = program.placement.shard(next(batches))
                info = StepInfo(*map(np.int32, (epoch, i, BATCHES)))
                for index in range(len(stage.phases)):
                    state, metrics = program.dispatches[stage.name](index, state, batch, info)
                    losses.append(float(metrics["loss"]))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state))
    if not losses:  # a closed form has none: the classes that it predicts
        batch = dataset.splits["test"].fetch(np.arange(32))
        joint = jax.jit(lambda v, b: program.method.predict(v, b).joint)(state.variables, batch)
        losses = [float(c) for c in np.asarray(joint).argmax(1)]
    return losses


def trained_on_nan(folder: pathlib.Path) -> str:
    """The error of a run whose example ``BAD`` is NaN: process 1 loads it."""
    dataset = build_dataset(("a", "b"), train=44)
    config = build_config(("a", "b"), "concat", encoder=LINEAR, check_loss_every=1)
    dataset.splits["train"].inputs["a"][BAD] = np.nan
    train.load_dataset = lambda *arguments: dataset
    try:
        train.train(config, folder, say=lambda line: None)
    except NonFiniteLossError as error:
        return str(error)
    return "nothing was noticed"


if __name__ == "__main__":
    output, port, count, index = sys.argv[1], *map(int, sys.argv[2:])
    jax.config.update("jax_num_cpu_devices", 1)  # eight in each would take five times as long
    distributed.initialize("on", f"127.0.0.1:{port}", count, index)
    found = {name: losses_of(name) for name in methods.REGISTRY}
    if distributed.is_main():
        with open(output, "w") as file:
            json.dump(found, file)
    print(trained_on_nan(pathlib.Path(output).with_name("nan")), flush=True)
