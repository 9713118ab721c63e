"""Compiles a run for a TPU slice, on any machine, and shows whether it fits and what limits it.

    python -m mla_jax.preflight --config=configs/digits.py --topology=v5e:2x2
    python -m mla_jax.preflight --config=configs/kinetics_sounds.py:synthetic --topology=v5e:4x4 \\
        --config.batch_size=256 --examples=20000
    python -m mla_jax.preflight --topology=list

Needs the extra `tpu`, whose compiler runs without a TPU, except for --topology=cpu:N.  Compiles
every phase, the evaluation and the initialisation, which takes seconds for digits and minutes for
large encoders.  Prints, and writes as preflight.md and preflight.json into --workdir: operations,
bytes, peak memory, donated state, collectives, types; estimates of the step time, the hours and the
input rate that hosts need, by calculation only; and verdicts.  The exit status is 1 if it does not
fit.  How to read it: docs/pods.md.
"""

import json
import sys

import jax
from absl import flags

from mla_jax.config import command_line
from mla_jax.config.files import load_config
from mla_jax.data.streams import Stream
from mla_jax.errors import UserError, check_choice
from mla_jax.methods import REGISTRY
from mla_jax.preflight import input_rate, preflight, topologies
from mla_jax.preflight.report import to_json, to_markdown
from mla_jax.runs.nulls import with_nulls
from mla_jax.runs.report import markdown_table

LIST = "list"
FILES = ("preflight.json", "preflight.md")


def main() -> int | None:
    """The preflight of the command line; 1 if the run does not fit."""
    F = flags.FLAGS
    if F.topology == LIST:
        header, rows, below = topologies.table()
        print(markdown_table(header, rows), *below, sep="\n")
        return None
    if not F.topology:
        raise UserError("give --topology=NAME, for example v5e:4x4; --topology=list lists them")
    if F.examples is not None and F.examples < 1:
        raise UserError(f"--examples={F.examples} must be at least 1")
    if F.input_rate and F.measure_input:
        raise UserError("--input_rate and --measure_input both set the input rate: leave out one")

    def find_rate(streams: dict[str, Stream]) -> input_rate.Rate | None:
        if F.input_rate:
            return input_rate.parse(F.input_rate, streams)
        return input_rate.measure(streams) if F.measure_input else None

    arguments = {}
    if F.method:
        check_choice("method", F.method, REGISTRY)
        arguments["method"] = F.method
    config = load_config(command_line.config_filename(), command_line.config_overrides(), arguments)
    jax.config.update("jax_platforms", "cpu")  # leave a TPU of this machine to others
    names = ("preflight", *arguments.values(), F.topology.replace(":", "_"))
    ending = "".join(f"-{name}" for name in names)
    workdir = command_line.local_folder(command_line.workdir(ending))
    for name in FILES:
        command_line.check_output(workdir / name, "--workdir", makes_folders=True)
    report = preflight(config, F.topology, F.examples, find_rate, _say)
    text = to_markdown(report)
    print(text)
    workdir.mkdir(parents=True, exist_ok=True)
    content = json.dumps(with_nulls(to_json(report)), indent=1, allow_nan=False) + "\n"
    for name, written in zip(FILES, (content, text), strict=True):
        command_line.write_whole(workdir / name, written.encode())
    print(f"written: {', '.join(str(workdir / name) for name in FILES)}")
    return None if report.fits else 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def define_flags() -> None:
    """The flags of this command besides those of the configuration."""
    command_line.define_config_flags()
    flags.DEFINE_string("topology", None, "what to compile for: v5e:4x4, v4:2x2x2, cpu:4 ...; "
                        "list: lists them (default: none)")  # fmt: skip
    flags.DEFINE_string("method", None, "the method, as :method= in --config (default: that)")
    flags.DEFINE_integer("examples", None, "training examples per epoch, for the hours (default: "
                         "those of the data set)")  # fmt: skip
    flags.DEFINE_string("input_rate", None, "examples per second that a core reads and decodes, or "
                        "a file of benchmark input --json (default: not known)")  # fmt: skip
    flags.DEFINE_bool("measure_input", False, "measures that rate here, in some seconds")


if __name__ == "__main__":
    define_flags()
    command_line.run_command(main, needs_config=lambda: flags.FLAGS.topology != LIST)
