"""A trained model as one StableHLO file, which runs with JAX and without mla_jax.

The file is what ``jax.export`` serialises, with the weights inside::

    import pathlib
    from jax import export                        # pip install jax flatbuffers

    model = export.deserialize(bytearray(pathlib.Path("digits.stablehlo").read_bytes()))
    found = model.call({"image": images, "audio": mfcc}, present)

``inputs``: ``{modality: array[B, ...]}``, every modality of the run, with shapes and types as in
``data.json``: the file contains the run's own evaluation transform.  ``present: bool[B, M]`` in the
order of the modalities; the array of a missing modality is ignored.  The result:

* ``logits: float32[B, C]``, fused, and ``probabilities: float32[B, C]``, their softmax;
* ``unimodal_logits: float32[M, B, C]``, NaN where the modality is missing;
* ``weights``, for methods that fuse predictions: ``float32[B, M]``, the weight of each modality;
  DI-MML has one more column, for the joint logits.

These equal the results of ``Run.predict``, up to rounding on another batch size or device.

Two results depend on more than the example.  With ``method.fusion=batch_entropy`` the weights are
those of the batch, so a result depends on the other examples, as in evaluation.  And a prepared
image that was stored with a changed aspect ratio is cropped as if that were its original one, as
for arrays given to ``Run.predict``.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import export

import mla_jax
from mla_jax.errors import UserError
from mla_jax.evaluate import outputs

if TYPE_CHECKING:  # run.py imports this module
    from mla_jax.runs.run import Run

PLATFORMS = ("cpu", "cuda", "tpu")
SYMBOLIC = "symbolic"
CALL = (
    "from jax import export; "
    "model = export.deserialize(bytearray(open(FILE, 'rb').read())); "
    "model.call({modality: array, ...}, present)"
)


def export_run(
    run: "Run", path: str | pathlib.Path, batch: int | str = SYMBOLIC, epoch: str = "chosen"
) -> None:
    """Writes a run to ``NAME.stablehlo``, and ``describe`` to ``NAME.stablehlo.json`` beside it.

    Raises:
      UserError: another suffix, or as ``lower``.
    """
    path = pathlib.Path(path)
    if path.suffix != ".stablehlo":
        raise UserError(f"{path} should end in .stablehlo")
    exported = lower(run, batch, epoch)
    content = {**describe(run, exported), "epoch": epoch}
    described = json.dumps(content, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, data in (
        (path, serialize(exported)),
        (path.with_name(path.name + ".json"), described.encode()),
    ):
        temporary = target.with_name(target.name + ".tmp")
        temporary.write_bytes(data)
        temporary.replace(target)


def lower(run: "Run", batch: int | str = SYMBOLIC, epoch: str = "chosen") -> export.Exported:
    """The run's prediction for CPU, CUDA and TPU at once.

    Args:
      run: with a checkpoint.
      batch: the number of examples per call, or ``symbolic`` for any number.
      epoch: ``chosen`` or ``last``, as in ``Run.load``.

    Raises:
      UserError: ``batch`` is neither, a symbolic batch is not possible, or there is no checkpoint.
    """
    size = batch_size(batch)
    length = export.symbolic_shape("B")[0] if size is None else size
    inputs = {
        m: jax.ShapeDtypeStruct((length, *run.data.shapes[m]), run.data.dtypes[m])
        for m in run.modalities
    }
    present = jax.ShapeDtypeStruct((length, len(run.modalities)), bool)
    function = prediction(run, epoch)
    try:
        return export.export(function, platforms=PLATFORMS)(inputs, present)
    except Exception as error:  # JAX raises many kinds if a size cannot be symbolic
        if size is not None or isinstance(error, UserError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{run.path} allows no symbolic batch ({reason}): give a size with --batch=N"
        ) from error


def serialize(exported: export.Exported) -> bytes:
    """The bytes of a ``.stablehlo`` file.

    Raises:
      UserError: flatbuffers, which JAX needs to write and read them, is missing.
    """
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise UserError("exporting needs flatbuffers: pip install flatbuffers") from error


def batch_size(batch: int | str) -> int | None:
    """``batch`` as a number, None for ``symbolic``; ``UserError`` if it is neither."""
    if batch == SYMBOLIC:
        return None
    try:
        number = int(batch)
    except ValueError:
        number = 0
    if not 1 <= number < 2**31:
        raise UserError(f"batch={batch} should be a number of at least 1, or {SYMBOLIC}")
    return number


def prediction(run: "Run", epoch: str = "chosen") -> Any:
    """``jit((inputs, present) -> dict)``: the exported function, with the weights as constants."""
    method, state = run.program.method, run.load(epoch)
    compute = outputs(method)

    def predict(inputs: Mapping[str, jax.Array], present: jax.Array) -> dict[str, jax.Array]:
        length = present.shape[0]
        seen = {}
        for position, m in enumerate(run.modalities):
            there = present[:, position].reshape(length, *[1] * (inputs[m].ndim - 1))
            seen[m] = jnp.where(there, inputs[m], jnp.zeros((), inputs[m].dtype))
        batch = {
            "inputs": seen,
            "present": present,
            "label": jnp.zeros(length, jnp.int32),
            "index": jnp.arange(length, dtype=jnp.int32),
            "valid": jnp.ones(length, bool),
        }
        # The code between the barriers is what Run.predict compiles, so it rounds in the same way:
        # the weights act like arguments, and no code around is fused into it.
        variables, batch = jax.lax.optimization_barrier((state.variables, batch))
        found = jax.lax.optimization_barrier(compute(variables, state.method_state, batch))
        answer = {
            "logits": found.fused,
            "probabilities": jax.nn.softmax(found.fused),
            "unimodal_logits": jnp.where(present.T[:, :, None], found.unimodal, jnp.nan),
        }
        return answer if found.weights is None else {**answer, "weights": found.weights}

    return jax.jit(predict)


def describe(run: "Run", exported: export.Exported) -> dict[str, Any]:
    """The content of the file beside an exported model, as JSON values; ``B`` is the batch."""
    (inputs, present), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    results = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    notes = run.data.input_notes
    return {
        "call": CALL,
        "needs": "pip install jax flatbuffers",
        "inputs": {
            m: {**_described(inputs[m]), **({"note": notes[m]} if m in notes else {})}
            for m in run.modalities
        },
        "present": _described(present),
        "outputs": {name: _described(result) for name, result in results.items()},
        "modalities": list(run.modalities),
        "class_names": list(run.class_names),
        "platforms": list(exported.platforms),
        "method": run.config.method.name,
        "data": run.identity["data"],
        "versions": {"mla_jax": mla_jax.__version__, "jax": jax.__version__},
    }


def _described(array: Any) -> dict[str, Any]:
    shape = [n if isinstance(n, int) else str(n) for n in array.shape]
    return {"shape": shape, "dtype": str(array.dtype)}
