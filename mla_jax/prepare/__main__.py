"""Turns the files of a data set into the records that training reads.

    python -m mla_jax.prepare --dataset=cremad --raw=CREMA-D --data_dir=data

Stopped at any point, the same command goes on; run again when all is done, it changes nothing.
docs/datasets.md says what each data set's raw folder must hold.
"""

import argparse
import glob
import math
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from mla_jax.config.help import create_parser
from mla_jax.data.cores import usable_cores
from mla_jax.datasets import DESCRIPTIONS, records
from mla_jax.errors import NoSpaceError, UserError, check_choice, space_watched
from mla_jax.prepare import run
from mla_jax.prepare.plan import Plan, make_plan


def parser() -> argparse.ArgumentParser:
    """The flags; ``enumerate`` of every description sees them too."""
    p = create_parser("prepare", __doc__)
    p.add_argument("--dataset", required=True, metavar="NAME", help=", ".join(DESCRIPTIONS))
    p.add_argument("--raw", required=True, metavar="DIR", help="the files as they were published")
    p.add_argument("--data_dir", default="data", metavar="DIR", help="where the records go")
    p.add_argument("--lists", default="", metavar="DIR", help="list files (default: in --raw)")
    p.add_argument(
        "--csv",
        default="",
        metavar="FILE",
        help="folder: the table of examples (default: examples.csv in --raw)",
    )
    p.add_argument(
        "--variant",
        default="",
        metavar="NAME",
        help="of the data set, or a name of yours (default: the first)",
    )
    p.add_argument(
        "--classes",
        default="",
        metavar="FILE",
        help="a class name per line (default: the data set's)",
    )
    p.add_argument(
        "--recipe",
        default="",
        metavar="NAME",
        help="how sound is represented (default: the first of the data set)",
    )
    p.add_argument("--vocab", default="", metavar="FILE", help="WordPiece vocabulary for text")
    p.add_argument(
        "--image_side",
        type=int,
        default=0,
        metavar="N",
        help="of stored pictures (default: the data set's)",
    )
    p.add_argument(
        "--images",
        choices=records.IMAGES,
        default="jpeg",
        help="how pictures are stored: raw needs no decoding and several times the space "
        "(default: %(default)s)",
    )
    p.add_argument(
        "--frames", type=int, default=0, metavar="N", help="folder: of a video (default: 3)"
    )
    p.add_argument(
        "--drop_incomplete",
        action="store_true",
        help="leave out examples with an unusable file (default: that modality is missing)",
    )
    p.add_argument(
        "--max_unreadable",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="stop when more of the examples have an unusable file (default: %(default)s)",
    )
    p.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes (default: one per core)"
    )
    p.add_argument("--examples_per_shard", type=int, default=256, metavar="N", help="per file")
    p.add_argument("--force", action="store_true", help="remove earlier records first")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when all is done, 1 for a full disk, 2 for bad input, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        check_choice("dataset", options.dataset, DESCRIPTIONS)
        if options.examples_per_shard < 1 or options.workers < 0:
            raise UserError("--examples_per_shard must be at least 1 and --workers at least 0")
        if options.frames < 0 or options.image_side < 0:
            raise UserError("--frames and --image_side must be positive")
        if not 0 <= options.max_unreadable <= 1:
            raise UserError(f"--max_unreadable={options.max_unreadable} must be a share in [0, 1]")
        plan = make_plan(DESCRIPTIONS[options.dataset], options)
        workers = options.workers or usable_cores()
        for line in raw_sizes(plan) if options.images == "raw" else ():
            print(line, flush=True)
        with space_watched(plan.folder):
            report = run.prepare(plan, workers, options.max_unreadable, options.force)
    except NoSpaceError as error:
        print(f"mla_jax.prepare: {error}", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"mla_jax.prepare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        return 130
    for line in summary(report, plan.description.default_split["strict"]):
        print(line)
    small = only_a_cpu()
    if small:
        print("runlocal is a small form, for a first try on a CPU: leave it out on a GPU or TPU")
    print(f"train on it: {train_command(plan, options, small)}")
    return 0


def raw_sizes(plan: Plan) -> list[str]:
    """What the raw pictures will take, a line per modality."""
    count = len(plan.raw.examples)
    streams = {m: how.stream for m, how in plan.modalities.items()}
    sizes = {m: math.prod(s.shape) for m, s in streams.items() if s.kind in records.PICTURES}
    return [
        f"{m}: raw pictures of {'x'.join(map(str, streams[m].shape))}, {size:,} bytes per example, "
        f"at most {size * count / 1e9:,.2f} GB in all"
        for m, size in sizes.items()
    ]


def summary(report: dict[str, Any], split: str) -> list[str]:
    """What a person wants to see: counts per class and split, what is missing, the fingerprint."""
    lines = [f"{report['dataset']}: {report['examples']} of {report['enumerated']} examples"]
    split = split if split in report["counts"] else next(iter(report["counts"]), "")
    parts = report["counts"].get(split, {})
    if parts:
        width = max(len(name) for name in (*report["classes"], "class"))
        lines.append(f"{'class':>{width}}  " + "  ".join(f"{part:>10}" for part in parts))
        rows = [(name, [counts[i] for counts in parts.values()])
                for i, name in enumerate(report["classes"])]  # fmt: skip
        rows.append(("all", [sum(counts) for counts in parts.values()]))
        lines += [f"{name:>{width}}  " + "  ".join(f"{n:>10}" for n in row) for name, row in rows]
        others = [name for name in report["counts"] if name != split]
        lines.append(f"split: {split}" + (f" (also: {', '.join(others)})" if others else ""))
    lines += [f"left out: {n} ({reason})" for reason, n in report["left_out"].items()]
    lines.append("present: " + ", ".join(f"{m} {n}" for m, n in report["present"].items()))
    for problem in report["unreadable"][:10]:
        where = " ".join(filter(None, (problem["modality"], problem["path"])))
        lines.append(f"unusable: {problem['id']} ({where}): {problem['reason']}")
    if report["unreadable"]:
        lines.append(f"{len(report['unreadable'])} unusable files in {run.REPORT}")
    each = report["bytes"] / max(report["examples"], 1)
    lines.append(f"size: {report['bytes'] / 1e6:,.1f} MB, {each / 1e3:,.1f} kB per example")
    lines.append(f"records: {report['folder']}, fingerprint {report['fingerprint']}")
    return lines


ENCODERS = {"tokens": "m3ae_text", "vector": "features"}
"""For ``folder``, by kind; for all other kinds resnet18."""


TPUS = ("/dev/accel*", "/dev/vfio/[0-9]*")
"""Where a machine shows its TPUs."""


def only_a_cpu() -> bool:
    """Whether training here would run on the CPU.

    A TPU is not asked: those of one machine out of several would wait for the others.
    """
    if any(glob.glob(pattern) for pattern in TPUS):
        return False
    import jax  # takes seconds, and nothing else here needs it

    return jax.default_backend() == "cpu"


def train_command(plan: Plan, options: argparse.Namespace, small: bool) -> str:
    """The command that trains on what was prepared; ``small``: the ``runlocal`` form."""
    name, given = plan.description.name, []
    if name == "folder":
        encoders = [ENCODERS.get(m.stream.kind, "resnet18") for m in plan.modalities.values()]
        given.append(f"modalities={'+'.join(plan.modalities)}")
        given.append(f"encoders={'+'.join(encoders)}")
        given += ["feature_dim=768"] * ("m3ae_text" in encoders)
    given += ["runlocal"] * small
    words = ["python -m mla_jax.main", ":".join([f"--config=configs/{name}.py", ",".join(given)])]
    words[1] = words[1].rstrip(":")
    if options.data_dir != "data":
        words.append(f"--data_dir={shlex.quote(options.data_dir)}")
    known = {"variant": plan.description.variants, "recipe": plan.description.recipes}
    for field, choices in known.items():
        chosen = getattr(options, field)
        if chosen and chosen != choices[0]:
            words.append(f"--config.dataset.{field}={shlex.quote(chosen)}")
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
