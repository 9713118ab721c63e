"""One shard's worth of work, done by one process: sources in, records and a note out."""

import hashlib
import json
import multiprocessing
import os
import pathlib
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mla_jax.datasets import records
from mla_jax.datasets.description import Example, Modality, Problem
from mla_jax.errors import UserError
from mla_jax.prepare import store

IN_NOTE = ("present", "aspect")

_counter: Any = None


class Job(NamedTuple):
    """Everything a process needs; all of it can be pickled."""

    shard: int
    path: pathlib.Path
    """Of the record file."""
    note: pathlib.Path
    """Written last: a shard with a note is done."""
    examples: Sequence[Example]
    modalities: Mapping[str, Modality]
    classes: Sequence[str]
    root: pathlib.Path
    settings: store.Settings
    drop_incomplete: bool


def start_process(counter: Any) -> None:
    """Leaves Ctrl-C to the parent, counts examples where it sees them, and ends with it."""
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)


def run(job: Job) -> dict[str, Any]:
    """Writes one shard and its note; returns the note."""
    streams = {m: how.stream for m, how in job.modalities.items()}
    features = records.tfds_features(streams, job.classes, job.settings.images)
    absent = {m: store.absent(stream, job.settings.images) for m, stream in streams.items()}
    rows, problems = [], []
    with records.open_shard(job.path) as append:
        for example in job.examples:
            stored, found = open_example(example, job)
            problems += found
            if stored and not (found and job.drop_incomplete):
                record = make_record(example, {**absent, **stored}, [m in stored for m in absent])
                append(records.serialize(features, record))
                rows.append({"id": example.id, **{k: record[k].tolist() for k in IN_NOTE}})
            if _counter is not None:
                with _counter.get_lock():
                    _counter.value += 1
    with job.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    note = {
        "shard": job.shard,
        "bytes": job.path.stat().st_size,
        "sha256": digest,
        "rows": rows,
        "problems": [problem._asdict() for problem in problems],
    }
    temporary = job.note.with_name(f"{job.note.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(note), encoding="utf-8")
    temporary.replace(job.note)
    return note


def make_record(
    example: Example, stored: Mapping[str, store.Stored], present: Sequence[bool]
) -> dict[str, Any]:
    """The features of a record; ``present`` is in the order of ``stored``."""
    return {
        "id": example.id,
        "label": example.label,
        "present": np.array(present, np.uint8),
        "aspect": np.array([s.aspect for s in stored.values()], np.float32),
        **{modality: s.value for modality, s in stored.items()},
    }


def open_example(example: Example, job: Job) -> tuple[dict[str, store.Stored], list[Problem]]:
    """What could be opened of an example, and what could not."""
    stored, problems = {}, []
    for modality, how in job.modalities.items():
        source = example.sources.get(modality)
        if source is None:
            continue
        try:
            stored[modality] = store.load(how, source, job.root, job.settings)
        except (UserError, ImportError, MemoryError):  # not the file's fault
            raise
        except Exception as error:  # decoders of damaged files raise anything
            reason = (str(error).splitlines() or [""])[0].replace(str(job.root), "").strip()
            reason = reason or type(error).__name__
            path = source.path or source.text[:40]
            problems.append(Problem(example.id, modality, path, reason[:200]))
    return stored, problems
