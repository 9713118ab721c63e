"""The data types that cross module borders: a batch, a training state, a prediction."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

Batch = dict[str, Any]
"""One batch, as a plain dictionary so that data loaders need nothing of ours.

``inputs``: ``{modality: array[B, ...]}``; ``present``: ``bool[B, M]``, False where a modality is
missing; ``label``: ``int32[B]``; ``index``: ``int32[B]``, the example's number within its split;
``valid``: ``bool[B]``, False on padding, which has no modality either.  Training batches also carry
``draw``: ``uint32[B]``, from which each example's augmentation is drawn (``data/pipeline.py``).
Where masks hide modalities (``config.missing``) and the method learns from what they hide
(``SEES_HIDDEN``), training batches carry ``available: bool[B, M]``, the ``present`` of the data
itself.  A method then finds the batch without masks under ``whole``: ``{"inputs", "present"}``
(``program.with_preparation``).
"""

Metrics = dict[str, jax.Array]
"""What a phase reports: ``loss`` and other scalars, ``examples``, the number of examples that these
are means over (without it every batch counts alike), and ``example_loss: float32[B]``."""


DATA_AXIS, MODALITY_AXIS = "data", "modality"
"""The axes of the mesh of a run (``distributed.data_parallel``)."""


@jax.tree_util.register_pytree_node_class
class Stacks(Mapping[str, Any]):
    """``{name: tree}``, where alike trees are held as one, along a new first axis.

    A program on 64 encoders then takes and returns as many arrays as a program on one.  It is a
    mapping and can be used as a dictionary that does not change; taking one tree out of it copies.

    ``groups``: the names that are held together; ``trees``: for each group its stacked tree, for a
    group of one name the tree itself.

    >>> both = Stacks((("a", "b"),), [{"bias": jnp.array([[1.0], [2.0]])}])
    >>> both["b"]
    {'bias': Array([2.], dtype=float32)}
    """

    def __init__(self, groups: Sequence[Sequence[str]], trees: Sequence[Any]):
        self.groups = tuple(map(tuple, groups))
        self.trees = list(trees)
        self._places = {
            name: (number, place if len(group) > 1 else None)
            for number, group in enumerate(self.groups)
            for place, name in enumerate(group)
        }

    @classmethod
    def of(cls, groups: Sequence[Sequence[str]], trees: Mapping[str, Any]) -> "Stacks":
        """The trees of a mapping, those of each group together."""
        return cls(groups, [rows(trees, group) for group in groups])

    def __getitem__(self, name: str) -> Any:
        number, place = self._places[name]
        tree = self.trees[number]
        return tree if place is None else jax.tree.map(lambda leaf: leaf[place], tree)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"Stacks({self.groups}, {self.trees})"

    def apart(self) -> dict[str, Any]:
        """The same as a plain dictionary, outside of any program."""
        found = {}
        for group, tree in zip(self.groups, self.trees, strict=True):
            whole = _everywhere(tree)
            for place, name in enumerate(group):
                found[name] = _pick(whole, np.int32(place)) if group[1:] else tree
        return found

    def tree_flatten(self) -> tuple[list[Any], Any]:
        return self.trees, self.groups

    @classmethod
    def tree_unflatten(cls, groups: Any, trees: Sequence[Any]) -> "Stacks":
        return cls(groups, trees)


def is_stacks(node: Any) -> bool:
    return isinstance(node, Stacks)


def stacked(trees: Sequence[Any]) -> Any:
    """Alike trees as one, along a new first axis; a single one as it is."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) if trees[1:] else trees[0]


def rows(trees: Mapping[str, Any], names: Sequence[str]) -> Any:
    """``stacked`` of the trees of some names."""
    if isinstance(trees, Stacks) and tuple(names) in trees.groups:
        return trees.trees[trees.groups.index(tuple(names))]
    return stacked([trees[name] for name in names])


def _everywhere(tree: Any) -> Any:
    """A stacked tree on every device of its mesh, if its first axis is divided among some."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not leaf.sharding.is_fully_replicated:
            return _gathering(getattr(leaf.sharding, "mesh", None))(tree)
    return tree


@functools.cache
def _gathering(mesh: Any) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))


@jax.jit
def _pick(tree: Any, place: jax.Array) -> Any:
    """The place is a number that the program is given, so there is one for all places."""
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, place, keepdims=False), tree
    )


@struct.dataclass
class TrainState:
    """Everything a phase may read or write; float32 throughout, replicated on every device.

    Where many encoders or heads are alike, the mappings of these modules are ``Stacks`` between two
    steps (``dispatch.py``); ``apart`` gives plain dictionaries.
    """

    params: dict[str, Any]
    """``{"encoder": {modality: tree}, "head": {name: {"kernel": [D, C], "bias": [C]}}}``."""
    batch_stats: Mapping[str, Any]
    """``{modality: tree}``: running means and variances."""
    opt_state: dict[str, Any]
    """Keyed like ``params``: one optimiser state per encoder and one per head."""
    method_state: Any = ()
    """Whatever else a method keeps between batches."""

    @property
    def variables(self) -> dict[str, Any]:
        """What prediction needs: the parameters and the running statistics."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def apart(self) -> "TrainState":
        """The state with plain dictionaries in the place of ``Stacks``; outside of any program."""
        return jax.tree.map(
            lambda node: node.apart() if is_stacks(node) else node, self, is_leaf=is_stacks
        )

    if TYPE_CHECKING:  # flax.struct adds it

        def replace(self, **changes: Any) -> "TrainState": ...


@struct.dataclass
class Prediction:
    """The logits of one batch, before any fusion."""

    unimodal: jax.Array
    """``float32[M, B, C]``, in the order of the method's modalities."""
    joint: jax.Array | None = None
    """``float32[B, C]`` where the method has a joint head."""
