"""An object store of this machine alone that speaks as S3 does, and fails on request."""

from __future__ import annotations

import re
import socket
import struct
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.file_host import answering

EXPIRED = "expired"
"""The answer to everything once a login ran out."""


class FailingStore(ThreadingHTTPServer):
    """Has one bucket, `bucket`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.fault: int | str | None = None
        """How every request fails: an HTTP status, `reset`, or EXPIRED."""
        self.good = 0
        """Objects that are still sent before `fault` begins."""
        self.denied: set[str] = set()
        """Objects that nobody may read."""
        self.archived: set[str] = set()
        """Objects that can be looked at, and have to be fetched out of an archive first."""
        self.variables = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def put(self, folder: Path, prefix: str) -> None:
        """Put a folder's images below a prefix."""
        for path in folder.rglob("*.jpg"):
            self.objects[f"{prefix}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()


class _Handler(BaseHTTPRequestHandler):
    server: FailingStore
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        asked = urlsplit(self.path)
        _, _, key = unquote(asked.path).lstrip("/").partition("/")
        fault = self.server.fault if self.server.good <= 0 else None
        if fault == "reset":
            # A connection that is closed so sends a reset, not an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif fault is not None:
            self._send(400 if fault == EXPIRED else int(fault), _error("ExpiredToken" if fault == EXPIRED else "Busy"))
        elif not key:
            self._send(200, self._listing(parse_qs(asked.query).get("prefix", [""])[0]))
        elif key in self.server.denied:
            self._send(403, _error("AccessDenied"))
        elif key in self.server.archived and self.command == "GET":
            self._send(403, _error("InvalidObjectState"))
        elif key not in self.server.objects:
            self._send(404, _error("NoSuchKey"))
        else:
            self._send(206 if "Range" in self.headers else 200, self.server.objects[key])
            self.server.good -= self.command == "GET"

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        if status == 206:
            size = len(content)
            begin, end = (int(each) for each in re.findall(r"\d+", self.headers["Range"]))
            content = content[begin : end + 1]
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(content) - 1}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _listing(self, prefix: str) -> bytes:
        rest = {key: key.removeprefix(prefix) for key in sorted(self.server.objects) if key.startswith(prefix)}
        folders = dict.fromkeys(prefix + each.partition("/")[0] + "/" for each in rest.values() if "/" in each)
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[key])}</Size></Contents>"
            for key, each in rest.items()
            if "/" not in each
        )
        below = "".join(f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in folders)
        count = len(rest)
        inside = f"<Name>bucket</Name><KeyCount>{count}</KeyCount><IsTruncated>false</IsTruncated>{found}{below}"
        return f"<ListBucketResult>{inside}</ListBucketResult>".encode()

    def log_message(self, *args: object) -> None:
        pass


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>".encode()


def failing_store() -> AbstractContextManager[FailingStore]:
    """A store that answers while the block runs."""
    return answering(FailingStore())
