"""A bfloat16 run of MLA on ResNet-18 stays near float32, and P stays float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from mla_jax.encoders import Encoders
from mla_jax.encoders.resnet import ResNet18
from mla_jax.functional.optimizers import StepInfo, create_optimizer
from mla_jax.methods import Task, create_method
from mla_jax.parity import cases
from mla_jax.parity.columns import COLUMNS


def run(dtype, steps=10):
    modules = {
        m: ResNet18(feature_dim=16, dtype=dtype) for m in ("visual",)
    }  # one: compiling is what takes long
    inputs = {"audio": (1,), "visual": (32, 32, 3)}
    case = cases.resnet_case()._replace(
        inputs=inputs, encoders=Encoders(modules, 16), learning_rate=1e-2
    )
    optimizer = create_optimizer(case.optimizer_config(), 10)
    method = create_method(
        COLUMNS["paper"].resolved(),
        case.encoders,
        optimizer,
        Task(cases.CLASSES, 10, 100),
    )
    batch = jax.tree.map(jnp.asarray, case.batch(0))
    shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    shapes = traverse_util.flatten_dict(shapes.variables, sep="/")
    tensors = cases.weights({name: leaf.shape for name, leaf in shapes.items()}, 5)
    params, stats = cases.nested(tensors)
    # The state is all zeros but for the weights and P, which spares compiling the initialisers.
    opt_state = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.eye(16) if getattr(path[-1], "name", "") == "P" else leaf,
        state.opt_state,
    )
    state = state.replace(params=params, batch_stats=stats, opt_state=opt_state)
    phases = [jax.jit(phase.update) for phase in method.stages[0].phases]
    losses = []
    for step in range(steps):
        batch = jax.tree.map(jnp.asarray, case.batch(step % 3))
        for phase in phases:
            state, metrics = phase(
                state, batch, StepInfo(np.int32(0), np.int32(step), np.int32(10))
            )
            losses.append(float(metrics["loss"]))
    return np.array(losses), state


def test_ten_steps_in_bfloat16():
    exact, _ = run(jnp.float32)
    losses, state = run(jnp.bfloat16)
    assert np.abs(exact - exact[0]).max() > 1e-2, "nothing was learned: the test shows nothing"
    np.testing.assert_allclose(losses, exact, rtol=3e-2)
    P = optax.tree_utils.tree_get(state.opt_state["head"]["shared"], "P")
    assert P.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state.variables)} == {jnp.dtype("float32")}
