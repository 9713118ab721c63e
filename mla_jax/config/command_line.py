"""What the commands share: flags, start-up, and errors that are one sentence."""

import errno
import itertools
import os
import pathlib
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from mla_jax import distributed, loading, storage
from mla_jax.backend import allocation
from mla_jax.config import fields, files, help, recipes
from mla_jax.datasets import DESCRIPTIONS
from mla_jax.errors import (
    NO_SPACE,
    Interrupted,
    NonFiniteLossError,
    NoSpaceError,
    UserError,
    check_choice,
)

CONFIG_FLAG = re.compile(r"--?config\.")
FILE_ERROR, USAGE_ERROR, NON_FINITE = 1, 2, 3
"""Exit statuses.  A run that signal n stops exits with 128 + n, so that a scheduler restarts it."""

WORDINGS = {
    r"invalid literal for int\(\) with base 10: .*": "it must be an integer",
    r"could not convert string to float: .*": "it must be a number",
    r"\('Non-boolean argument to boolean flag', .*\)": "it must be true or false",
}
"""How Python and absl say that a value is of another type, and how we do."""
OF_A_RUN = ("config.json", "data.json", "result.json", "metrics.jsonl")
"""Files without which a run is lost or cannot be opened."""
NO_CONFIG = "give --config=FILE, for example --config=configs/digits.py"
NOT_EMPTY = (
    "workdir", "data_dir", "stage_dir", "profile", "coordinator_address", "topology", "method",
    "input_rate",
)  # fmt: skip
"""Flags that must not be empty when they are given."""
HELP = {"--help", "-help", "--helpshort", "-h", "-?"}


class ConfigFileParser(flags.ArgumentParser):
    """Reads the value of ``--config`` with ``files.load_config``, which finds packaged files."""

    def parse(self, filename: str) -> ConfigDict:
        return files.load_config(filename).lock()

    def flag_type(self) -> str:
        return "configuration file"


def define_flags() -> None:
    """The flags of every command that trains."""
    define_config_flags()
    flags.DEFINE_string("profile", None, "FROM:TO: write a jax.profiler trace of these batches")
    flags.DEFINE_enum(
        "distributed", "auto", distributed.MODES, "connect processes: auto looks for a cluster"
    )
    asked = "(default: taken from the cluster)"
    flags.DEFINE_string("coordinator_address", None, f"HOST:PORT of process 0 {asked}")
    flags.DEFINE_integer("num_processes", None, f"how many processes the run has {asked}")
    flags.DEFINE_integer("process_id", None, f"the number of this one, from 0 {asked}")
    flags.DEFINE_string(
        "compilation_cache",
        "~/.cache/mla_jax/xla",
        "keeps compiled programs; empty: no cache (JAX_COMPILATION_CACHE_DIR takes precedence)",
    )


def define_config_flags() -> None:
    """The flags of every command that takes a configuration, even if it runs no program."""
    config_flags.DEFINE_config_file(
        "config", None, "a file of configs/ or of your own, as FILE or FILE:name=value,..."
    )
    flags.FLAGS["config"].parser = ConfigFileParser()
    flags.DEFINE_string(
        "data_dir", None, "where python -m mla_jax.prepare wrote (default: what FILE says, or data)"
    )
    flags.DEFINE_string(
        "stage_dir",
        None,
        "where data of a gs:// --data_dir is copied to (default: temporary folder)",
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "directory of the run, also gs://BUCKET/... (default: runs/<config name and arguments>)",
    )


def run_command(
    main: Callable[[], int | None],
    ending: str = "",
    needs_config: Callable[[], bool] = lambda: True,
) -> None:
    """Parses the flags, starts JAX, runs ``main`` and ends the process.

    Args:
      main: the command; what it returns is the exit status, 0 for None.
      ending: the end of the name of the default ``workdir``.
      needs_config: whether these flags require ``--config``.
    """

    def start(argv: Sequence[str]) -> int | None:
        if len(argv) > 1:
            raise UserError(f"unexpected argument '{argv[1]}': options are written --name=value")
        logging.set_verbosity(logging.ERROR)  # app.run turns on the log lines of every library
        F = flags.FLAGS
        if "distributed" not in F:  # a command that runs no program
            return main()
        cache = pathlib.Path(F.compilation_cache).expanduser()
        for path in (cache, *cache.parents):
            if os.path.exists(path) and not os.path.isdir(path):
                raise UserError(
                    f"--compilation_cache={F.compilation_cache}: {path} is a file: name a folder, "
                    "or give nothing after = for no cache"
                )
        if F.compilation_cache and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            jax.config.update("jax_compilation_cache_dir", str(cache))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        allocation.keep_freed_memory()
        distributed.initialize(F.distributed, F.coordinator_address, F.num_processes, F.process_id)
        if unused := distributed.unused_gpus():
            print(f"warning: {unused}", file=sys.stderr, flush=True)
        return main()

    def parse(argv: Sequence[str]) -> list[str]:
        if HELP & set(argv[1:]):
            print(help_text(argv), end="")
            raise SystemExit(0)
        try:
            arguments = flags.FLAGS(argv)
            if flags.FLAGS.config is None and needs_config():
                raise UserError(NO_CONFIG)
            for name in NOT_EMPTY:
                if name in flags.FLAGS and flags.FLAGS[name].value == "":
                    raise UserError(f"--{name}= is empty: give it a value, or leave it out")
            if flags.FLAGS.config is not None:
                fields.override(flags.FLAGS.config, flag_overrides())
            return arguments
        except (flags.Error, AttributeError, LookupError, TypeError, ValueError) as error:
            explain_config_flags(argv)
            text = str(error).splitlines()[0]
            for pattern, words in WORDINGS.items():
                text = re.sub(pattern, words, text)
            raise UserError(f"{text} (--help lists the options)") from error

    loading.loaded()
    try:
        app.run(start, flags_parser=parse)
    except UserError as error:
        status, message = USAGE_ERROR, f"error: {error}"
    except NonFiniteLossError as error:
        status, message = NON_FINITE, f"error: {error}"
    except NoSpaceError as error:
        status, message = FILE_ERROR, f"error: {error}"
    except Interrupted as interruption:
        status, message = 128 + interruption.signal, str(interruption)
    except KeyboardInterrupt:
        status, message = 130, _stopped(ending)
    except Exception as error:
        status = FILE_ERROR
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, *NO_SPACE):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # discard what is still buffered
            message = f"error: standard output cannot be written ({error.strerror})"
        elif jax.distributed.is_initialized():
            message = traceback.format_exc()
        else:
            raise
    print(message, file=sys.stderr, flush=True)
    _leave(status)


def workdir(ending: str = "") -> str:
    """The folder of ``--workdir``, or the default one, whose name ends with ``ending``."""
    return flags.FLAGS.workdir or f"runs/{config_name()}{ending}"


def local_folder(workdir: str) -> pathlib.Path:
    """The ``--workdir`` of a command that makes no run; ``UserError`` if it is in a bucket."""
    if "://" in workdir:
        raise UserError(
            f"--workdir={workdir}: this is written to a local folder, so name one (a run of "
            "mla_jax.main may lie in a bucket)"
        )
    return pathlib.Path(workdir)


def _stopped(ending: str) -> str:
    """The message after Ctrl-C outside the training loop, where no checkpoint is saved for it."""
    try:
        folder = pathlib.Path(workdir(ending))
    except (flags.Error, AttributeError, ValueError):  # not all flags were read
        return "stopped before the start: repeat the command"
    if storage.in_bucket(workdir(ending)):
        return "stopped: the same command goes on from the last checkpoint, if there is one"
    saved = (*folder.glob("checkpoints/*"), *folder.glob("*/seed*/checkpoints/*"))
    if any(path.name.isdigit() for path in saved):
        return "stopped: the same command goes on from the last checkpoint"
    return "stopped before the first checkpoint: the same command starts from the beginning"


def help_text(argv: Sequence[str]) -> str:
    """What ``--help`` prints; with ``--config=FILE`` it ends with the fields of that file.

    Raises:
      UserError: there is no such file, or it is not a configuration file.
    """
    command = sys.modules["__main__"]
    spec = command.__spec__
    name = spec.name.removesuffix(".__main__") if spec else pathlib.Path(argv[0]).stem
    shared = flags.FLAGS.flags_by_module_dict()[__name__]
    own = [*shared, *flags.FLAGS.get_flags_for_module(sys.argv[0])]
    filename = config_option(argv)
    values = fields.flatten(files.load_config(filename).to_dict()) if filename else {}
    return help.of_training_command(
        name.removeprefix("mla_jax."), command.__doc__ or "", own, recipes.ARGUMENTS, values
    )


def status_of(name: str, work: Callable[[], int | None]) -> int:
    """Runs a command that has parsed its own options; returns the exit status.

    The status is what ``work`` returns (0 for None), 2 for bad input, or 1 for an unusable file.
    ``name`` is printed before the error's sentence.
    """
    loading.loaded()
    try:
        return work() or 0
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except OSError as error:
        where = f"cannot use {error.filename}: " if error.filename else ""
        print(f"{name}: {where}{error.strerror or error}", file=sys.stderr)
        return FILE_ERROR
    except KeyboardInterrupt:
        print("stopped before the end", file=sys.stderr)
        return 130


def check_output(path: pathlib.Path, flag: str = "--output", makes_folders: bool = False) -> None:
    """Checks, before the work starts, that a file can be written.

    Args:
      path: the file.
      flag: the option that gives its name.
      makes_folders: whether missing folders above it will be made.

    Raises:
      UserError: it is a folder or a file of a run, its folder is missing or is a file, or
        nothing can be written there.
    """
    if path.is_dir():
        raise UserError(f"{flag}={path} is a folder: name a file")
    if path.name in OF_A_RUN and (path.parent / "config.json").is_file():
        raise UserError(f"{flag}={path} is a file of the run in {path.parent}: name another")
    folder = path.parent
    while makes_folders and not folder.exists():
        folder = folder.parent
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag}={path}: {folder} is a file, not a folder: name another place")
    if not folder.is_dir():
        raise UserError(f"{flag}={path}: there is no folder {folder}: make it first")
    try:
        if _is_special(path):
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"{flag}={path} cannot be written ({error.strerror}): name a file elsewhere"
        ) from error


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a whole file or nothing; no temporary file is left behind."""
    if _is_special(path):
        path.write_bytes(content)
        return
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_special(path: pathlib.Path) -> bool:
    """Whether it exists but is not a plain file, as ``/dev/stdout``: it must not be replaced."""
    return path.exists() and not path.is_file()


def _leave(status: int) -> None:
    """Ends the process.

    One of several processes ends at once, since the others may be waiting for it.  So does one
    that has lost its bucket, since threads are waiting for the bucket.
    """
    sys.stdout.flush()
    if storage.is_lost() or (jax.distributed.is_initialized() and status < 128):
        os._exit(status)
    sys.exit(status)


def explain_config_flags(argv: Sequence[str]) -> None:
    """Raises ``UserError`` if a ``--config.FIELD`` flag names an unknown field or a group.

    Such flags without ``--config=FILE`` are refused too.
    """
    wanted = [a.lstrip("-").removeprefix("config.") for a in argv if CONFIG_FLAG.match(a)]
    if not wanted:
        return
    filename = config_option(argv)
    if filename is None:
        raise UserError(NO_CONFIG)
    known = fields.flatten(files.load_config(filename).to_dict())
    for argument in wanted:
        field = argument.split("=", 1)[0]
        if any(name.startswith(field + ".") for name in known):
            raise UserError(f"configuration field '{field}' is a group: set one of its fields")
        check_choice("configuration field", field, known)


def config_option(argv: Sequence[str]) -> str | None:
    """The value of ``--config`` on a command line that is not parsed yet."""
    for argument, following in itertools.zip_longest(argv, argv[1:]):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            return value if equals else following
    return None


def config_name() -> str:
    """``digits-concat-audio+text`` for ``--config=configs/digits.py:method=concat,...``."""
    path, _, arguments = config_filename().partition(":")
    values = [item.rpartition("=")[2] for item in arguments.split(",") if item]
    return "-".join([pathlib.Path(path).stem, *(value.replace("/", "_") for value in values)])


def config_filename() -> str:
    """The value of ``--config`` as the user wrote it, with its arguments."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


def config_overrides() -> dict[str, Any]:
    """``{"a.b": value}`` of the ``--config.a.b=value`` flags and of other flags that set fields."""
    return config_flags.get_override_values(flags.FLAGS["config"]) | flag_overrides()


def flag_overrides() -> dict[str, str]:
    """The fields that ``--data_dir``, ``--stage_dir`` and ``--profile`` set, with their values.

    Raises:
      UserError: the data set is not read from a folder, or the field is also set another way.
    """
    F = flags.FLAGS
    profile = F["profile"].value if "profile" in F else None
    found = {} if profile is None else {"profile": profile}
    found |= {} if F.stage_dir is None else {"dataset.stage_dir": F.stage_dir}
    where = F.data_dir if F.data_dir is not None else F.config.dataset.data_dir
    if F.stage_dir is not None and not storage.in_bucket(where):
        raise UserError("--stage_dir is for data in a bucket (--data_dir=gs://...): leave it out")
    if F.data_dir is None:
        return found
    name, field = F.config.dataset.name, "dataset.data_dir"
    if name not in DESCRIPTIONS:
        raise UserError(f"dataset '{name}' is not prepared and takes no --data_dir: leave it out")
    if F.config.dataset.synthetic:
        raise UserError("--data_dir does not apply to synthetic data: leave out one of the two")
    if field in config_flags.get_override_values(F["config"]):
        raise UserError(f"--data_dir and --config.{field} set the same field: give one of them")
    return {field: F.data_dir, **found}
