"""Reads M3AE's own checkpoints, which are pickles, without running any code in them.

The file is a cloudpickle of ``{"step", "epoch", "variant", "state"}``; the weights are the tree
``state.params["params"]``.  It also holds the optimiser, with its functions and what they refer
to.  A pickle may name any function to be called.  Here no name is ever looked up: the few that
rebuild arrays map to code of this module, all others to placeholders that do nothing.  Names
that only an attack would need are also refused, so that the user learns of them.
"""

import io
import pathlib
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from mla_jax.convert.names import Tensors
from mla_jax.errors import UserError

FOREIGN = (
    *("_io", "_pickle", "_posixsubprocess", "ctypes", "io", "marshal", "nt", "os", "pickle"),
    *("posix", "pty", "runpy", "shutil", "socket", "subprocess", "webbrowser"),
)
"""Packages that no training state needs; names in them are refused."""

FOREIGN_BUILTINS = ("__import__", "breakpoint", "compile", "eval", "exec", "input", "open")

OTHER = "name a file that M3AE's code saved"
"""The remedy in errors about other pickles."""


class Inert:
    """A placeholder for a class, function or object of the file, which does nothing when used."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *args: Any, **kwargs: Any):
        self.arguments = args

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":
        return Inert()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    add = append


# All stand-ins are classes with __setstate__, which a pickle cannot alter.  Arrays stay
# stand-ins until the file is read: numpy's own objects trust the state that a pickle gives them.


class Dtype(Inert):
    """``numpy.dtype``."""

    def real(self) -> np.dtype:
        """The type; ``UserError`` unless it is numeric or boolean."""
        name = self.arguments[0] if self.arguments else ""
        if not isinstance(name, str) or not re.fullmatch("[fiu][1248]|b1", name):
            raise UserError(f"it holds an array of type {name!r}, not of numbers")
        order: Any = self.state[1] if isinstance(self.state, tuple) else "="
        return np.dtype(name).newbyteorder(order)


class Array(Inert):
    """``numpy.core.multiarray._reconstruct``: an array that waits for its state."""

    def real(self) -> np.ndarray:
        """The array, in this machine's byte order."""
        _, shape, dtype, fortran, content = self.state
        return _array(content, dtype, shape, "F" if fortran else "C")


class FromBuffer(Array):
    """``numpy.core.numeric._frombuffer``: an array in the form of protocol 5."""

    def real(self) -> np.ndarray:
        content, dtype, shape, order = self.arguments
        return _array(content, dtype, shape, order)


class DeviceArray(Array):
    """JAX's ``_reconstruct_device_array`` and ``_reconstruct_array``: a numpy array and more."""

    def real(self) -> np.ndarray:
        function, arguments, state, *_ = self.arguments
        array = function(*arguments)
        array.__setstate__(state)
        return array.real()


class Encoded(Inert):
    """``_codecs.encode``: bytes in the form of protocols before 3."""

    def __new__(cls, text: Any, codec: Any = "") -> Any:
        if codec != "latin1" or not isinstance(text, str):
            raise UserError("it refers to a codec, which no M3AE checkpoint needs: do not trust it")
        return text.encode(codec)


MEANT = {
    "encode": Encoded,
    "_reconstruct": Array,
    "_frombuffer": FromBuffer,
    "dtype": Dtype,
    "_reconstruct_device_array": DeviceArray,
    "_reconstruct_array": DeviceArray,
    "OrderedDict": dict,
}
"""The names that are replaced by code of this module, with their packages."""

HOMES = ("numpy", "jax", "jaxlib", "collections", "_codecs")


class Unpickler(pickle.Unpickler):
    """Builds numbers, strings and containers, and placeholders for everything else."""

    def find_class(self, module: str, name: str) -> Any:
        package = module.partition(".")[0]
        executes = module in ("builtins", "__builtin__") and name in FOREIGN_BUILTINS
        if package in FOREIGN or executes:
            raise UserError(
                f"it refers to {module}.{name}, which no M3AE checkpoint needs: do not trust it"
            )
        if package in HOMES and name in MEANT:
            return MEANT[name]
        return type(name.rpartition(".")[2], (Inert,), {"__module__": f"inert.{module}"})


def read_m3ae(path: pathlib.Path) -> Tensors:
    """The weights in one of M3AE's own checkpoints, as ``{"encoder/Block_0/...": array}``.

    Raises:
      UserError: the file is not such a pickle, or uses names that do not belong in one.
    """
    return weights(load(path.read_bytes(), str(path)), str(path))


def load(content: bytes, source: str) -> Any:
    """The content of a pickle, with placeholders for everything but plain data.

    Raises:
      UserError: it cannot be read, or uses a forbidden name.
    """
    try:
        return Unpickler(io.BytesIO(content)).load()
    except UserError as error:
        raise UserError(f"{source} is refused: {error}") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"{source} is not a readable pickle: {error}; copy it again") from error


def weights(content: Any, source: str) -> Tensors:
    """The flat parameters of a loaded checkpoint: those under ``state.params["params"]``.

    Raises:
      UserError: there are none, or some are not arrays of numbers.
    """
    tree = content
    for step in ("state", "params", "params"):
        tree = _inside(tree).get(step)
    try:
        found = dict(_flat(tree, ""))
    except RecursionError as error:  # a dictionary that contains itself
        raise UserError(
            f"{source} is not a checkpoint of M3AE: it contains itself; {OTHER}"
        ) from error
    if not found:
        raise UserError(
            f"{source} is not a checkpoint of M3AE: it has no parameters under state.params; "
            f"{OTHER}"
        )
    if strange := sorted(name for name, value in found.items() if not isinstance(value, Array)):
        raise UserError(f"{source} holds no array at {', '.join(strange[:5])}: {OTHER}")
    tensors = {}
    for name, value in found.items():
        try:
            tensors[name] = value.real()
        except (UserError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise UserError(
                f"{source} holds a damaged array at {name}: {error}; copy the file again"
            ) from error
    return tensors


def _array(content: Any, dtype: Any, shape: Any, order: Literal["C", "F"]) -> np.ndarray:
    kind = dtype.real()
    array = np.frombuffer(bytes(content), kind).reshape(shape, order=order)
    return array.astype(kind.newbyteorder("="))


def _inside(value: Any) -> Mapping[str, Any]:
    """The attributes or items of a dictionary or of a placeholder for an object."""
    if isinstance(value, Inert):
        if value.state is None and value.arguments:  # FrozenDict(dictionary)
            value = value.arguments[0]
        elif isinstance(value.state, tuple):  # (attributes, slots)
            value = next((part for part in value.state if isinstance(part, dict)), None)
        else:
            value = value.state
    if not isinstance(value, dict):
        return {}
    return value.get("_dict", value)  # FrozenDict's attribute


def _flat(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in _inside(tree).items():
        if isinstance(value, Array) or not _inside(value):
            yield f"{prefix}{name}", value
        else:
            yield from _flat(value, f"{prefix}{name}/")
