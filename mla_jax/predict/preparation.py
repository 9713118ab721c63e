"""Checks that new records were prepared in the same way as those of the training."""

from collections.abc import Mapping, Sequence
from typing import Any

from mla_jax.datasets.prepared import preparation
from mla_jax.errors import UserError
from mla_jax.runs.run import Run

WORDS = {
    "vocabulary": "the vocabulary",
    "recipe": "the recipe",
    "frames": "the frames",
    "code": "the code of version",
}
REMEDIES = {
    "vocabulary": "prepare them with the --vocab of the training data",
    "recipe": "prepare them with --recipe={}",
    "frames": "give --input a .csv file of the videos, which are then prepared in the right way",
    "code": "prepare them, and the training data, with the same version of mla_jax",
}


def check_preparation(
    run: Run, index: Mapping[str, Any], modalities: Sequence[str], name: str
) -> None:
    """Compares an index with what the run's records were prepared with.

    Args:
      run: its ``data.json`` says so; older ones do not, and then a line is printed.
      index: ``index.json``, or the part of it that is known before anything is prepared.
      modalities: the ones to compare.
      name: the name of the new records in messages.

    Raises:
      UserError: they differ.
    """
    if not run.data.preparation:
        print(f"not checked: {run.path} does not say which vocabulary and recipe it was trained on")
        return
    new = preparation(index, modalities)
    for m in modalities:
        for field, wanted in run.data.preparation.get(m, {}).items():
            given = new[m].get(field)
            if given and not _agrees(given, wanted):
                raise UserError(
                    f"'{m}' of {name} has {WORDS[field]} {_text(given)}, and {run.path} was "
                    f"trained with {_text(wanted)}: {REMEDIES[field].format(wanted)}"
                )


def _agrees(given: Any, wanted: Any) -> bool:
    return set(given) <= set(wanted) if isinstance(wanted, list) else given == wanted


def _text(value: Any) -> str:
    return " and ".join(value) if isinstance(value, list) else str(value)
