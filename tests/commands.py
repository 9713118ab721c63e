"""Runs the package's commands in processes forked from one that has imported it already.

Starting Python and importing JAX takes two seconds, a fork a hundredth.  The children are what
``python -m MODULE OPTION ...`` is: JAX has not looked for devices when they are made.  Only the
plots of runs are left out (``drawing``).
"""

import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).parents[1]


class Commands:
    """``run(module, options)`` as ``subprocess.run``; ``close`` ends the process that forks."""

    def __init__(self, cwd: pathlib.Path = ROOT, environment: Mapping[str, str] | None = None):
        """``cwd``: where the commands are run; ``environment``: changes to that of this process."""
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.commands"],
            cwd=cwd,
            env=os.environ | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, module: str, options: Sequence[str], **environment: str
    ) -> subprocess.CompletedProcess:
        """Runs ``python -m module options`` to its end, with changes to the environment."""
        with tempfile.TemporaryDirectory() as folder:
            files = [pathlib.Path(folder) / name for name in ("out", "err")]
            argv = [module, *options]
            request = {"argv": argv, "files": list(map(str, files)), "environment": environment}
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            status = int(self._server.stdout.readline())
            out, err = (file.read_text() for file in files)
        return subprocess.CompletedProcess(argv, status, out, err)

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()


def serve() -> None:
    """Forks a child for every line of standard input and prints how it ended."""
    # What the children use, most of all: each would import it for itself.
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    import mla_jax.compare.page
    import mla_jax.compare.workers
    import mla_jax.train  # noqa: F401
    from tests import drawing

    drawing.leave_out()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            os.environ.update(request["environment"])
            become(request["argv"], request["files"])
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def become(argv: Sequence[str], files: Sequence[str]) -> None:
    """Runs a module as ``python -m`` does, its output in files, and ends the process."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv = list(argv)
    status = 0
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()
