"""How the state is laid out between two steps: which modules are stacked, and on which devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from mla_jax import distributed
from mla_jax.encoders import many
from mla_jax.errors import UserError
from mla_jax.state import MODALITY_AXIS, Batch, Stacks, TrainState, is_stacks


class Layout:
    """Which modules of the state the phases of a stage hold together, and on which devices.

    ``alike``: ``Phase.alike`` of each.  Nothing is held together unless all agree.
    """

    def __init__(self, alike: Sequence[Callable[[TrainState, Batch], Any] | None]):
        self._alike = alike
        self._groups: dict[str, Any] | None = None
        """``Phase.alike``; {} where no modules are held together, None before the first state."""
        self._everywhere: Any = None
        self._divided: jax.sharding.NamedSharding | None = None
        """The sharding of stacks, where ``config.modality_devices`` divides them."""
        self._hold: Callable[[TrainState], TrainState] | None = None

    def held(self, state: TrainState, batch: Batch) -> TrainState:
        """``Dispatch.held``.

        Raises:
          UserError: the mesh has an axis of modalities, and there is nothing that it divides.
        """
        if self._groups is None:
            self._groups = self._common_groups(state, batch)
            some = jax.tree.leaves(state)[0]
            self._everywhere = getattr(some, "sharding", None)  # that of all
            self._divided = distributed.over_modalities(self._everywhere)
            if self._divided and all(self._alike):
                self._check(self._divided.mesh.shape[MODALITY_AXIS])
        if self._groups and self._holds(state):
            return state
        if isinstance(state, TrainState) and any(map(is_stacks, state.params.values())):
            state = state.apart()  # it comes from another stage
        if not self._groups:
            return state
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state)):
            return self._mapped(
                lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
                jax.eval_shape(self._stacked, state),
            )
        if self._hold is None:
            shapes = jax.eval_shape(self._stacked, state)
            places = self._mapped(lambda x, place: place, shapes)
            self._hold = jax.jit(self._stacked, out_shardings=places)
        return self._hold(state)

    def kept(self, state: TrainState) -> TrainState:
        """Within a program: the stacks stay divided, which XLA alone does not promise."""
        return self._mapped(jax.lax.with_sharding_constraint, state) if self._divided else state

    def _holds(self, state: TrainState) -> bool:
        """Whether a state is laid out like this already."""
        return self._groups == {
            kind: trees.groups for kind, trees in state.params.items() if isinstance(trees, Stacks)
        }

    def _divides(self, group: Sequence[str]) -> bool:
        """Whether a group is divided; heads may be more than the encoders of one kind."""
        if self._divided is None:
            return False
        return len(group) > 1 and len(group) % self._divided.mesh.shape[MODALITY_AXIS] == 0

    def _mapped(self, function: Callable[[Any, Any], Any], state: TrainState) -> TrainState:
        """``function(array, its sharding)`` of every array."""

        def of(node: Any) -> Any:
            if not isinstance(node, Stacks):
                return function(node, self._everywhere)
            places = [self._divided if self._divides(group) else None for group in node.groups]
            return Stacks(
                node.groups,
                [
                    jax.tree.map(lambda x, p=place: function(x, p or self._everywhere), tree)
                    for tree, place in zip(node.trees, places, strict=True)
                ],
            )

        return jax.tree.map(of, state, is_leaf=is_stacks)

    def _stacked(self, state: TrainState) -> TrainState:
        groups = self._groups or {}

        def of_groups(trees: dict[str, Any]) -> dict[str, Any]:
            return {**trees, **{kind: Stacks.of(groups[kind], trees[kind]) for kind in groups}}

        return state.replace(
            params=of_groups(state.params),
            batch_stats=Stacks.of(groups["encoder"], state.batch_stats),
            opt_state=of_groups(state.opt_state),
        )

    def _common_groups(self, state: TrainState, batch: Batch) -> dict[str, Any]:
        """Groups of several, if all phases hold the same ones together."""
        if not all(self._alike) or len(state.params["encoder"]) < many.MANY:
            return {}  # at once: what follows traces the preparation of a batch
        found: list[dict[str, Any]] = []

        def note(state: TrainState, batch: Batch) -> None:
            found.extend({**alike(state, batch)} for alike in self._alike if alike)

        jax.eval_shape(note, state, batch)
        if any(groups != found[0] for groups in found):
            return {}
        several = {kind: any(len(g) > 1 for g in groups) for kind, groups in found[0].items()}
        if not several["encoder"]:
            return {}
        return {
            kind: tuple(map(tuple, groups)) for kind, groups in found[0].items() if several[kind]
        }

    def _check(self, devices: int) -> None:
        sizes = {len(group) for group in (self._groups or {}).get("encoder", ()) if group[1:]}
        if not sizes or any(size % devices for size in sizes):
            have = f"groups of {', '.join(map(str, sorted(sizes)))}" if sizes else "none"
            raise UserError(
                f"modality_devices={devices} divides {many.MANY} or more encoders of one kind, but "
                f"here there are {have}: set --config.modality_devices=1, or give so many "
                f"modalities encoders of one kind, without convolutions, that {devices} divides "
                "their number"
            )
