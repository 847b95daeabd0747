"""A web server on this machine that serves files and ranges of them, and fails, hangs up or slows down on request."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, TypeVar

Server = TypeVar("Server", bound=ThreadingHTTPServer)


class Served(NamedTuple):
    """A file and how it is served."""

    content: bytes
    etag: str = ""
    ranges: bool = True
    headers: dict[str, str] = {}  # noqa: RUF012
    faults: list[int | str] = []  # noqa: RUF012
    """One for each GET, in order: an HTTP status, or `break N` to hang up after N bytes of the answer."""
    pause: float = 0.0
    """Seconds of waiting after each sixteenth of the file."""


class FileHost(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Served] = {}
        self.seen: list[tuple[str, str, str | None, str | None]] = []
        """(method, path, Range, If-Range) of every request."""
        self.gate: threading.Barrier | None = None
        """Where it is set, every GET waits there for the others."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of every GET."""
        return [header for method, _, header, _ in self.seen if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    server: FileHost

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        self.server.seen.append((self.command, self.path, wanted, condition))
        if body and self.server.gate is not None:
            self.server.gate.wait(timeout=30)
        served = self.server.files.get(self.path)
        fault = served.faults.pop(0) if served and body and served.faults else None
        if served is None or isinstance(fault, int):
            self.send_error(404 if served is None else int(str(fault)))
            return
        start = self._start(served, wanted, condition)
        if start >= len(served.content):
            self.send_error(416)
            return
        rest = served.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(served.content) - 1}/{len(served.content)}")
        self.send_header("Content-Length", str(len(rest)))
        if served.etag:
            self.send_header("ETag", served.etag)
        for key, value in served.headers.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self._send(rest[: int(fault.split()[1])] if isinstance(fault, str) else rest, served.pause)

    def _start(self, served: Served, wanted: str | None, condition: str | None) -> int:
        start = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        return int(start.group(1)) if start and served.ranges and condition in (None, served.etag) else 0

    def _send(self, content: bytes, pause: float) -> None:
        step = max(1, len(content) // 16) if pause else len(content)
        with suppress(ConnectionError):  # The client may have been killed.
            for begin in range(0, len(content), step):
                self.wfile.write(content[begin : begin + step])
                time.sleep(pause)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def answering(server: Server) -> Iterator[Server]:
    """A server that answers while the block runs."""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def file_host() -> AbstractContextManager[FileHost]:
    """A host that answers while the block runs."""
    return answering(FileHost())
