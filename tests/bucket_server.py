"""A Google Cloud Storage on the loopback interface: ``python -m tests.bucket_server PORT``.

It is ``gcp-storage-emulator`` with what that leaves out.  The lock of a run needs the precondition
``ifGenerationMatch``, answered as the real service does (412 where another object, or one at all,
is there), and renaming a damaged checkpoint needs ``moveTo``.  ``forbidden-bucket`` answers
everything with 403, and ``readonly-bucket`` what would change it.
"""

import http
import http.server
import io
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import traceback
from typing import Any
from urllib.parse import unquote

from gcp_storage_emulator import exceptions, server
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.storage import Storage

BUCKET = "bucket-one"
BUCKETS = (BUCKET, "forbidden-bucket", "readonly-bucket")
ROOT = pathlib.Path(__file__).parents[1]
MOVE = (
    r"^(?:/storage/v1)?/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.+)"
    r"/moveTo/o/(?P<dest_object_id>.+)$"
)
OBJECT = re.compile(r"(?:/upload)?(?:/storage/v1)?/b/([-.\w]+)(?:/o(?:/(.*))?)?")


class Router(server.Router):
    """The emulator's, after a look at the bucket and at the precondition."""

    def handle(self, method: str) -> None:
        """Answers a request."""
        connection = self._request_handler.rfile
        try:
            self._answer(method)
        finally:
            self._request_handler.rfile = connection

    def _answer(self, method: str) -> None:
        request = server.Request(self._request_handler, method)
        match = OBJECT.fullmatch(request.path)
        if match and (status := self._refused(request, match[1], unquote(match[2] or ""))):
            server._read_raw_data(self._request_handler)  # else it would be the next request
            response = server.Response(self._request_handler)
            response.status = status
            response.json({"error": {"code": status.value, "message": status.phrase}})
            response.close()
            return
        super().handle(method)

    def _refused(self, request: server.Request, bucket: str, name: str) -> http.HTTPStatus | None:
        reads = request.method == "GET"
        if bucket == "forbidden-bucket" or (bucket == "readonly-bucket" and not reads):
            return http.HTTPStatus.FORBIDDEN
        wanted = request.query.get("ifGenerationMatch")
        if wanted is None or reads:
            return None
        name = name or request.query.get("name", [""])[0] or self._name_in_body()
        try:
            found = self._request_handler.storage.get_file_obj(bucket, name)["generation"]
        except exceptions.NotFound:
            found = "0"
            if wanted[0] != "0":
                return http.HTTPStatus.NOT_FOUND
        return None if found == wanted[0] else http.HTTPStatus.PRECONDITION_FAILED

    def _name_in_body(self) -> str:
        """The name of a multipart upload, whose body is then there to be read again."""
        body = server._read_raw_data(self._request_handler)
        self._request_handler.rfile = io.BytesIO(body)
        return json.loads(re.search(rb'"name": ("(?:[^"\\\\]|\\\\.)*")', body)[1])


def move(request: server.Request, response: server.Response, storage: Any) -> None:
    """Renames an object: the emulator has no ``moveTo``, and gcsfs tries it for half a minute."""
    request.params["dest_bucket_name"] = request.params["bucket_name"]
    objects.copy(request, response, storage)
    if response.status == http.HTTPStatus.OK:
        objects.delete(request, response, storage)


def report(*_: object) -> None:
    """Prints what went wrong in an answer, but not that the client was killed meanwhile."""
    if not isinstance(sys.exception(), ConnectionError):
        traceback.print_exc()


def serve(port: int, folder: str = "") -> None:
    """Serves what lies in ``folder``, or what is in memory, until SIGTERM."""
    # The emulator writes its whole index at every request: half a megabyte, and half of it if it
    # is stopped then, with which it would not start again.  Here it is written at the end.
    write_index = Storage._write_config_to_file
    Storage._write_config_to_file = lambda storage: None
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # in its threads too
    server.Router = Router
    server.HANDLERS = ((MOVE, {"POST": move}), *server.HANDLERS)
    # With the usual 5, TCP tries a connection again only after 1, 3 or 7 seconds.
    http.server.HTTPServer.request_queue_size = 128
    http.server.HTTPServer.handle_error = report
    made = server.create_server("127.0.0.1", port, not folder, data_dir=folder or None)
    for bucket in BUCKETS:
        server.buckets.create_bucket(bucket, made._storage)
    made.start()
    print("ready", flush=True)
    signal.sigwait(ends)
    made.stop()  # after the request that it answers
    write_index(made._storage)


class Server:
    """The emulator in a process of its own; ``stop`` it, and ``start`` it with the same objects."""

    def __init__(self, folder: pathlib.Path | str = ""):
        """``folder``: where objects are kept; empty: in memory, which is faster."""
        # Bound and not listening: nobody else gets the port while the bucket is away.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port = self._reserved.getsockname()[1]
        self.folder = [str(folder)] if folder else []
        address = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "NO_PROXY": "127.0.0.1",
            # Else gcsfs asks Google, in vain and each time, which kind of bucket it is.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bucket_server", str(self.port), *self.folder],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout.readline() == "ready\n", "its error is in the output"

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait(30) == 0


if __name__ == "__main__":
    serve(int(sys.argv[1]), *sys.argv[2:])
