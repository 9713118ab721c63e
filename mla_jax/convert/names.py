"""Name maps: one list of rows converts a backbone's tensors from PyTorch to Flax and back."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from mla_jax.errors import UserError

Tensors = dict[str, np.ndarray]


def _from_patches(w: np.ndarray) -> np.ndarray:
    side = 16  # of a patch: [side * side * in, out] -> [out, in, side, side]
    return w.reshape(side, side, -1, w.shape[-1]).transpose(3, 2, 0, 1)


TO_FLAX = {
    "convolution": lambda w: w.transpose(2, 3, 1, 0),  # [out, in, h, w] -> [h, w, in, out]
    "patch": lambda w: w.transpose(2, 3, 1, 0).reshape(-1, len(w)),  # -> [h w in, out]
    "linear": lambda w: w.T,  # [out, in] -> [in, out]
    "same": lambda w: w,
}
TO_TORCH = {
    "convolution": lambda w: w.transpose(3, 2, 0, 1),
    "patch": _from_patches,
    "linear": lambda w: w.T,
    "same": lambda w: w,
}


class Row(NamedTuple):
    """One tensor under both names."""

    torch: str
    flax: str | None
    """``collection/module/.../leaf``; None for PyTorch's ``num_batches_tracked``."""
    kind: str
    """A key of ``TO_FLAX``, or ``counter``: a batch counter, which is not used as long as the
    momentum is given.  It is dropped on import, where it may also be absent (PyTorch < 0.4.1
    wrote none), and written as 0 on export, where ``load_state_dict`` requires it."""
    shape: tuple[int, ...]
    """The shape in PyTorch's order."""

    @property
    def ours(self) -> str:
        """``flax`` of a row that is no counter."""
        assert self.flax is not None
        return self.flax

    def at(self, torch_prefix: str, module: str) -> "Row":
        """This row in a larger model: ``params/x`` becomes ``params/<module>/x``."""
        flax = self.flax
        if flax is not None:
            collection, _, rest = flax.partition("/")
            flax = f"{collection}/{module}/{rest}"
        return self._replace(torch=torch_prefix + self.torch, flax=flax)


def flat(tree: Mapping[str, Any]) -> Tensors:
    """``{"params/...": array}`` of a nested tree."""
    leaves = traverse_util.flatten_dict(dict(tree), sep="/")
    return {name: np.asarray(value) for name, value in leaves.items()}


def to_flax(tensors: Mapping[str, np.ndarray], rows: Sequence[Row], source: str) -> Tensors:
    """``{"params/...": array}`` of PyTorch's ``tensors``; ``source`` is named in errors.

    Raises:
      UserError: a tensor is missing, unexpected, or of another shape or type; all are listed.
    """
    counters = {row.torch for row in rows if row.kind == "counter"}
    wanted = [row for row in rows if row.kind != "counter"]  # several rows may use one tensor
    given = {name: tensor for name, tensor in tensors.items() if name not in counters}
    check_names(source, {row.torch: row.shape for row in wanted}, given)
    return {row.ours: np.ascontiguousarray(TO_FLAX[row.kind](given[row.torch])) for row in wanted}


def to_torch(tensors: Mapping[str, np.ndarray], rows: Sequence[Row], source: str) -> Tensors:
    """The inverse of ``to_flax``; batch counters are written as 0 (``Row.kind``).

    Raises:
      UserError: as ``to_flax``, with Flax's names and shapes.
    """
    wanted = {row.ours: row for row in rows if row.kind != "counter"}
    shapes = {name: flax_shape(row) for name, row in wanted.items()}
    check_names(source, shapes, tensors)
    found = {}
    for row in rows:
        if row.kind == "counter":
            found[row.torch] = np.zeros((), np.int64)
        else:
            found[row.torch] = np.ascontiguousarray(TO_TORCH[row.kind](tensors[row.ours]))
    return found


def flax_shape(row: Row) -> tuple[int, ...]:
    """The shape that ``to_flax`` gives a row's tensor."""
    return TO_FLAX[row.kind](np.broadcast_to(np.float32(0), row.shape)).shape


def check_names(
    source: str,
    wanted: Mapping[str, tuple[int, ...]],
    given: Mapping[str, np.ndarray],
) -> None:
    """Raises ``UserError`` unless ``given`` has exactly the wanted names and shapes, in float32."""
    faults = [_listed("missing", wanted.keys() - given.keys())]
    faults.append(_listed("unexpected", given.keys() - wanted.keys()))
    both = sorted(wanted.keys() & given.keys())
    faults.append(
        _listed(
            "of another shape",
            [
                f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name])}"
                for name in both
                if tuple(given[name].shape) != tuple(wanted[name])
            ],
        )
    )
    faults.append(
        _listed(
            "not float32",
            [f"{n} {given[n].dtype}" for n in both if given[n].dtype != np.float32],
        )
    )
    if found := "; ".join(filter(None, faults)):
        raise UserError(f"{source} does not hold the expected tensors: {found}")


def _listed(what: str, names: Iterable[str]) -> str:
    names = sorted(names)
    return f"{len(names)} {what} ({', '.join(names)})" if names else ""
