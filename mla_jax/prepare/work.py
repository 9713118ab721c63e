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
    multiprocessing.parent_process().join()
    os._exit(1)


def run(job: Job) -> dict[str, Any]:
    """Writes one shard and its note; returns the note."""
    features = records.tfds_features({m: x.stream for m, x in job.modalities.items()}, job.classes)
    rows, problems, content = [], [], []
    for example in job.examples:
        stored, found = open_example(example, job)
        problems += found
        present = [modality in stored for modality in job.modalities]
        if any(present) and not (found and job.drop_incomplete):
            absent = {m: store.absent(x.stream) for m, x in job.modalities.items()}
            every = {m: stored.get(m, absent[m]) for m in job.modalities}
            aspect = [every[m].aspect for m in job.modalities]
            record = {
                "id": example.id,
                "label": example.label,
                "present": np.array(present, np.uint8),
                "aspect": np.array(aspect, np.float32),
                **{m: every[m].value for m in job.modalities},
            }
            content.append(records.serialize(features, record))
            rows.append(
                {"id": example.id, "present": present, "aspect": np.float32(aspect).tolist()}
            )
        if _counter is not None:
            with _counter.get_lock():
                _counter.value += 1
    records.write_shard(job.path, content)
    note = {
        "shard": job.shard,
        "bytes": job.path.stat().st_size,
        "sha256": hashlib.sha256(job.path.read_bytes()).hexdigest(),
        "rows": rows,
        "problems": [problem._asdict() for problem in problems],
    }
    temporary = job.note.with_name(f"{job.note.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(note))
    temporary.replace(job.note)
    return note


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
