"""Carries a plan out on all cores, going on where an earlier run was stopped."""

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mla_jax.datasets import records
from mla_jax.datasets.splits import Members
from mla_jax.errors import UserError
from mla_jax.prepare import work
from mla_jax.prepare.plan import NOTES, Plan, frame_rules
from mla_jax.prepare.progress import Progress

REPORT = "prepare_report.json"
PLAN, LOCK = "plan.json", ".lock"

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are then not noticed
    fcntl = None  # type: ignore[assignment]


def prepare(
    plan: Plan,
    workers: int,
    max_unreadable: float,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes what is missing of the records, then the index and the report; returns the report.

    Raises:
      UserError: more than ``max_unreadable`` of the examples (a fraction) cannot be used, or none
        can, or the folder holds records of other raw files or settings.
    """
    with _claim(plan, force):
        return _prepare(plan, workers, max_unreadable, say)


def _prepare(
    plan: Plan, workers: int, max_unreadable: float, say: Callable[[str], None]
) -> dict[str, Any]:
    done = {job.shard: note for job in plan.jobs if (note := _note_of(job))}
    missing = [job for job in plan.jobs if job.shard not in done]
    total = len(plan.raw.examples)
    finished = sum(len(job.examples) for job in plan.jobs) - sum(len(j.examples) for j in missing)
    if finished:
        say(f"{finished} of {total} examples are there already")
    limit = _Limit(plan, max_unreadable)
    for note in done.values():
        limit.add(note["problems"])
    limit.check()
    with Progress(total, finished, say) as progress:
        for note in _carry_out(missing, workers, progress):
            done[note["shard"]] = note
            limit.add(note["problems"])
            limit.check()
    notes = [done[job.shard] for job in plan.jobs]
    if not any(note["rows"] for note in notes):
        raise UserError(limit.nothing_left())
    index = _write_index(plan, notes)
    report = _report(plan, notes, index)
    _write_json(plan.folder / REPORT, report)
    return report


def _claim(plan: Plan, force: bool) -> Any:
    """Makes the folder, or makes sure that it belongs to this plan; returns its open lock."""
    path = plan.folder / PLAN
    wanted = {"digest": plan.digest, **plan.settings}
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(plan.folder)
        for old in [p for p in plan.folder.iterdir() if force and p.name != LOCK]:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        (plan.folder / NOTES).mkdir(exist_ok=True)
        for left in [*plan.folder.glob("*.tmp"), *(plan.folder / NOTES).glob("*.tmp")]:
            left.unlink()
        saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if saved is None:
            _write_json(path, wanted)
            return lock
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot use {plan.folder} ({error}): name another --data_dir, or start over with "
            "--force"
        ) from error
    if not isinstance(saved, dict):
        raise UserError(f"{path} is damaged: name another --data_dir, or start over with --force")
    if saved != json.loads(json.dumps(wanted)):
        fields = [
            k for k in {**wanted, **saved} if json.dumps(saved.get(k)) != json.dumps(wanted.get(k))
        ]
        other = [k for k in fields if k != "digest"] or ["the raw files"]
        raise UserError(
            f"{plan.folder} holds records made of something else ({', '.join(other)} differ): "
            "name another --data_dir, or replace them with --force"
        )
    return lock


def _lock(folder: pathlib.Path) -> Any:
    lock = (folder / LOCK).open("w", encoding="utf-8")
    if fcntl:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is at work in {folder}: wait for it, or name another --data_dir"
            ) from error
        except OSError:  # a file system without locks
            pass
    return lock


def _note_of(job: work.Job) -> dict[str, Any] | None:
    """The note of a shard that is done; None if anything is missing of it."""
    try:
        note = json.loads(job.note.read_text(encoding="utf-8"))
        return note if job.path.stat().st_size == note["bytes"] else None
    except (OSError, ValueError, KeyError):
        return None


class _Limit:
    """Counts the examples with an unusable file and stops when they are too many."""

    def __init__(self, plan: Plan, share: float):
        refused = len({problem.id for problem in plan.raw.problems})
        self._total = len(plan.raw.examples) + refused
        self._most = share * self._total
        self._share = share
        self._ids: set[str] = set()
        self._first: dict[str, Any] = {}
        self.add([problem._asdict() for problem in plan.raw.problems])

    def add(self, problems: list[dict[str, Any]]) -> None:
        self._ids |= {problem["id"] for problem in problems}
        self._first = self._first or (problems[0] if problems else {})

    def nothing_left(self) -> str:
        """The sentence for when no example can be used."""
        first = ""
        if problem := self._first:
            where = problem["path"] or problem["modality"]
            first = f"; the first is {problem['id']} ({where}: {problem['reason']})"
        return f"none of the {self._total} examples can be used{first}: check the raw folder"

    def check(self) -> None:
        if len(self._ids) > self._most:
            first = self._first
            raise UserError(
                f"{len(self._ids)} of {self._total} examples cannot be used in full, more than "
                f"--max_unreadable={self._share:g} allows; the first is {first['id']} "
                f"({first['path'] or first['modality']}: {first['reason']}): check the raw folder, "
                "or raise the limit and run again (what is done is kept)"
            )


def _carry_out(jobs: list[work.Job], workers: int, progress: Progress) -> Iterator[dict[str, Any]]:
    """The notes, in the order in which the shards are finished."""
    if workers == 1 or len(jobs) <= 1:
        for job in jobs:
            yield work.run(job)
            progress.advance(len(job.examples))
        return
    context = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
    counter = context.Value("q", 0)
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(jobs)), context, work.start_process, (counter,)
    )
    try:
        waiting = {pool.submit(work.run, job) for job in jobs}
        while waiting:
            finished, waiting = concurrent.futures.wait(
                waiting, 0.5, concurrent.futures.FIRST_COMPLETED
            )
            progress.reach(counter.value)
            for future in finished:
                yield future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError(
            "a worker process died, perhaps for want of memory: run again with fewer --workers "
            "(what is done is kept)"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_index(plan: Plan, notes: list[dict[str, Any]]) -> dict[str, Any]:
    """``index.json`` and TFDS's own metadata."""
    rows = [row for note in notes for row in note["rows"]]
    examples = {example.id: example for example in plan.raw.examples}
    kept = [examples[row["id"]] for row in rows]
    number = {name: i for i, name in enumerate(plan.raw.classes)}
    groups = sorted({name for example in kept for name in example.groups})
    digest = hashlib.sha256(plan.digest.encode())
    for note in notes:
        digest.update(note["sha256"].encode())
    index: dict[str, Any] = {
        "name": plan.description.name,
        "fingerprint": digest.hexdigest()[:12],
        "settings": plan.settings,
        "frames": frame_rules(plan.raw, plan.modalities),
        "streams": {m: how.stream._asdict() for m, how in plan.modalities.items()},
        "classes": list(plan.raw.classes),
        "shard_bytes": [note["bytes"] for note in notes],
        "ids": [row["id"] for row in rows],
        "label": [number[example.label] for example in kept],
        "present": [[int(p) for p in row["present"]] for row in rows],
        "aspect": [row["aspect"] for row in rows],
        "groups": {name: [example.groups.get(name, "") for example in kept] for name in groups},
        "lists": plan.raw.lists,
    }
    streams = {m: how.stream for m, how in plan.modalities.items()}
    features = records.tfds_features(streams, plan.raw.classes, records.stored_images(index))
    lengths = [len(note["rows"]) for note in notes]
    records.write_tfds_metadata(
        plan.folder, plan.description.name, features, lengths, sum(index["shard_bytes"])
    )
    _write_json(plan.folder / records.INDEX, index)
    return index


def _report(plan: Plan, notes: list[dict[str, Any]], index: dict[str, Any]) -> dict[str, Any]:
    """Counts per class and split, and every file that could not be used."""
    problems = [problem._asdict() for problem in plan.raw.problems]
    problems += [problem for note in notes for problem in note["problems"]]
    members = Members(index["ids"], index["groups"], index["lists"])
    label, known = np.array(index["label"]), set(index["ids"])
    left_out = dict(plan.raw.left_out)
    for name, parts in index["lists"].items():
        if absent := len({id for ids in parts.values() for id in ids} - known):
            left_out[f"in list '{name}', but not among the examples"] = absent
    counts = {}
    for split, rule in plan.description.splits.items():
        try:
            parts = rule.draw(members, 0)
        except UserError:  # its list files were not given
            continue
        counts[split] = {
            part: np.bincount(label[rows], minlength=len(index["classes"])).tolist()
            for part, rows in parts.items()
        }
    return {
        "dataset": index["name"],
        "folder": os.path.relpath(plan.folder),
        "fingerprint": index["fingerprint"],
        "examples": len(index["ids"]),
        "bytes": sum(index["shard_bytes"]),
        "enumerated": len(plan.raw.examples) + len({p.id for p in plan.raw.problems}),
        "present": dict(
            zip(index["streams"], np.sum(index["present"], 0, int).tolist(), strict=True)
        ),
        "classes": index["classes"],
        "counts": counts,
        "left_out": left_out,
        "unreadable": problems,
    }


def _write_json(path: pathlib.Path, content: Any) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
