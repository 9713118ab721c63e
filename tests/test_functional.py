"""The library floor in somebody else's training loop, and the house's rule about imports."""

import ast
import importlib.util
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mla_jax
from mla_jax.errors import UserError
from mla_jax.functional import fusion, losses
from mla_jax.functional.heads import apply_head, init_head
from mla_jax.functional.optimizers import StepInfo, create_optimizer
from mla_jax.functional.projection import alpha_schedule, orthogonal_projection
from tests.conftest import build_config

D, C, B, STEPS = 8, 3, 16, 20
PACKAGE = pathlib.Path(mla_jax.__file__).parent


class Classifier(nn.Module):
    """An encoder and a head, as an optax user would write them."""

    @nn.compact
    def __call__(self, x):
        features = nn.relu(nn.Dense(D, name="encoder")(x))
        return nn.Dense(C, name="head")(features), features


def test_an_optax_users_loop_equals_the_head_of_mla():
    """``multi_transform``: the projection on one head of a Linen tree, plain SGD elsewhere."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS, B, 5)).astype(np.float32)
    y = rng.integers(0, C, (STEPS, B))
    model = Classifier()
    variables = model.init(jax.random.key(0), x[0])
    labels = lambda tree: jax.tree_util.tree_map_with_path(  # noqa: E731
        lambda path, _: "head" if "head" in jax.tree_util.keystr(path) else "rest", tree
    )
    tx = optax.multi_transform(
        {"head": optax.chain(orthogonal_projection(D), optax.sgd(0.1)), "rest": optax.sgd(0.1)},
        labels,
    )
    config = build_config().optimizer
    config.update({"momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.1})
    config.schedule = "constant"
    ours = create_optimizer(config, 1)
    head_optimizer = ours.after(orthogonal_projection(D))

    def loss(params, x, y):
        logits, features = model.apply(params, x)
        return losses.cross_entropy(logits, y).mean(), features.mean(0)

    grad = jax.jit(jax.grad(loss, has_aux=True))
    theirs, state = variables, tx.init(variables)
    params = variables["params"]
    head, head_state = params["head"], head_optimizer.init(params["head"])
    encoder, encoder_state = params["encoder"], ours.init(params["encoder"])
    for step in range(STEPS):
        alpha = alpha_schedule(step, STEPS)
        g, mean = grad(theirs, x[step], y[step])
        updates, state = tx.update(g, state, theirs, feature_mean=mean, alpha=alpha)
        theirs = optax.apply_updates(theirs, updates)
        g, mean = grad({"params": {"encoder": encoder, "head": head}}, x[step], y[step])
        info = StepInfo(0, step, STEPS)
        encoder, encoder_state = ours.step(g["params"]["encoder"], encoder_state, encoder, info)
        head, head_state = head_optimizer.step(
            g["params"]["head"], head_state, head, info, feature_mean=mean, alpha=alpha
        )
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(theirs["params"]["head"][name], head[name], rtol=1e-6)
        np.testing.assert_allclose(theirs["params"]["encoder"][name], encoder[name], rtol=1e-6)
    P = optax.tree_utils.tree_get(state, "P")
    np.testing.assert_allclose(P, optax.tree_utils.tree_get(head_state, "P"), rtol=1e-6)
    assert (np.asarray(P) != np.eye(D)).any()


TREE = {
    "params": {
        "first": {"kernel": jnp.ones((5, D)), "bias": jnp.ones(D)},
        "head": {"kernel": jnp.ones((D, C)), "bias": jnp.ones(C)},
    }
}
MEAN = {"feature_mean": jnp.arange(D, dtype=float), "alpha": 0.1}


def projected(mask=None, wrap=lambda tx: tx):
    tx = wrap(orthogonal_projection(D, order="update_then_project", mask=mask))
    updates, _ = tx.update(TREE, tx.init(TREE), TREE, **MEAN)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), updates, TREE)
    leaves = jax.tree_util.tree_leaves_with_path(same)
    return [jax.tree_util.keystr(p, simple=True, separator="/") for p, equal in leaves if not equal]


def only_heads(tree):
    return jax.tree_util.tree_map_with_path(lambda p, _: "head" in jax.tree_util.keystr(p), tree)


def test_kernels_of_the_right_width_are_projected_and_nothing_else():
    assert projected() == ["params/head/kernel"]
    assert projected(wrap=lambda tx: optax.masked(tx, only_heads)) == ["params/head/kernel"]
    assert projected(wrap=lambda tx: optax.chain(optax.identity(), tx)) == ["params/head/kernel"]
    kernel = lambda tree: jax.tree.map(lambda x: x.shape == (D, C), tree)  # noqa: E731
    assert projected(mask=kernel) == projected(mask=kernel(TREE)) == ["params/head/kernel"]
    assert projected(mask=lambda tree: jax.tree.map(lambda x: x.shape == (D,), tree)) == [
        "params/first/bias"
    ]


def test_a_bare_array_and_a_head_of_several_axes():
    matrix = jnp.arange(D * C, dtype=float).reshape(D, C)
    tx = orthogonal_projection(D, order="update_then_project")
    flat, _ = tx.update(matrix, tx.init(matrix), **MEAN)
    cube = matrix.reshape(D, C, 1)
    tx = orthogonal_projection(D, order="update_then_project", mask=True)
    high, _ = tx.update(cube, tx.init(cube), **MEAN)
    np.testing.assert_array_equal(high[..., 0], flat)
    assert (flat != matrix).any()


@pytest.mark.parametrize(
    ("dim", "mask", "sentence"),
    [
        (7, None, r"finds nothing to project.*params/first/kernel \[5, 8\]"),
        (D, lambda t: jax.tree.map(lambda x: False, t), "finds nothing to project"),
        (D, lambda t: jax.tree.map(lambda x: True, t), r"cannot project params/first/kernel.*5, 8"),
    ],
)
def test_a_tree_without_its_kernel_is_refused_by_name(dim, mask, sentence):
    with pytest.raises(UserError, match=sentence):
        orthogonal_projection(dim, mask=mask).init(TREE)


def test_a_mean_of_another_width_is_refused():
    tx = orthogonal_projection(D)
    with pytest.raises(UserError, match=r"'feature_mean' must have the shape \[8\], not \[9\]"):
        tx.update(TREE, tx.init(TREE), feature_mean=jnp.ones(9), alpha=0.1)


LOGITS, PRESENT = np.zeros((2, 4, C), np.float32), np.ones((4, 2), bool)
RULES = (
    fusion.entropy_weights,
    fusion.equal_weights,
    fusion.energy_weights,
    fusion.batch_entropy_weights,
    fusion.certainty_weights(1.0),
    fusion.fixed_weights((0.5, 0.5)),
)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("logits", "present"), [(LOGITS[0], PRESENT), (LOGITS, PRESENT.T), (LOGITS, PRESENT[:, 0])]
)
def test_fusion_names_a_wrong_shape(rule, logits, present):
    with pytest.raises(UserError, match="must have the shape"):
        rule(logits, present)


def test_heads_and_losses_name_a_wrong_shape():
    head = init_head(jax.random.key(0), D, C)
    with pytest.raises(UserError, match=r"'kernel' must have the shape \[D=5, C\], not \[8, 3\]"):
        jax.jit(apply_head)(head, jnp.ones((4, 5)))
    with pytest.raises(UserError, match=r"'label' must have the shape \[B=4\], not \[5\]"):
        losses.cross_entropy(jnp.ones((4, C)), jnp.ones(5, int))


# ---- The front door --------------------------------------------------------------------------


def test_every_public_name_can_be_loaded():
    assert set(mla_jax.__all__) <= set(dir(mla_jax))
    for name in mla_jax.__all__:
        assert getattr(mla_jax, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = mla_jax.trian


@pytest.mark.parametrize("first", ["import mla_jax.train", "from mla_jax.train import fit", ""])
def test_train_can_be_called_whatever_was_imported_first(first):
    code = (
        f"import mla_jax\n{first}\nassert callable(mla_jax.train) and callable(mla_jax.train.fit)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


# ---- Imports run downwards -------------------------------------------------------------------

FLOORS = (
    "loading", "errors", "slurm", "storage", "functional", "state", "data", "datasets", "encoders",
    "backend", "methods", "distributed", "stacking", "dispatch", "config", "evaluate", "program",
    "telemetry", "convert", "runs", "train", "compare", "leaderboard", "parity", "benchmark",
    "preflight", "prepare", "predict",
)  # fmt: skip
"""From the ground up; a module imports from its own room and from those before it."""
COMMANDS = ("main", "export")


def room_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "commands" if parts[-1] == "__main__" or parts[0] in COMMANDS else parts[0]


def imported_rooms(path: pathlib.Path) -> set[str]:
    """The rooms that a file imports from, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mla_jax":
            names = (
                [node.module] if "." in node.module else [f"mla_jax.{a.name}" for a in node.names]
            )
            found |= {name.split(".")[1] for name in names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mla_jax.")}
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_run_downwards(path):
    room = room_of(path)
    if room in ("__init__", "commands"):
        return  # the front door and the commands may use everything
    below = FLOORS[: FLOORS.index(room) + 1]
    assert imported_rooms(path) <= set(below), f"{room} imports from a room above it"


def test_the_ground_floor_imports_nothing_of_the_trainer():
    for path in (PACKAGE / "functional").glob("*.py"):
        assert imported_rooms(path) <= {"errors", "functional"}
    assert importlib.util.find_spec("mla_jax.functional.projection")


def test_the_root_is_small():
    files = [path for path in PACKAGE.iterdir() if path.is_file()]
    assert len(files) <= 14, sorted(path.name for path in files)


def test_masks_as_optax_takes_them():
    full = only_heads(TREE)
    full["params"]["head"]["bias"] = False
    for mask in (full, {"params": {"first": False, "head": {"kernel": True, "bias": False}}}):
        assert projected(mask=mask) == ["params/head/kernel"]
    inside = optax.multi_transform(
        {"a": orthogonal_projection(D, mask=full), "b": optax.identity()},
        lambda tree: jax.tree.map(lambda head: "a" if head else "b", only_heads(tree)),
    )
    inside.init(TREE)
    with pytest.raises(UserError, match="another structure than the parameters"):
        projected(mask={"params": {"other": True}})
