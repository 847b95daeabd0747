"""Clients of `zoo serve` that cost little themselves: prepared bytes through sockets of the loopback interface."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PATIENCE = 60.0
"""Seconds in which the server must answer, or the client fails."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    body: Any
    """The JSON."""


class Client:
    """One connection, which is kept open while the server keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> Answer:
        """Send a whole request and read its answer."""
        self.send(request)
        return self.read()

    def send(self, part: bytes) -> None:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=_PATIENCE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(part)

    def read(self) -> Answer:
        assert self._socket is not None, "send comes first"
        head, body = b"", b""
        while b"\r\n\r\n" not in head:
            came = self._socket.recv(1 << 16)
            if not came:
                raise ConnectionError("the server closed the connection without an answer")
            head += came
        head, _, body = head.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        while len(body) < int(headers["content-length"]):
            body += self._socket.recv(1 << 16)
        if headers.get("connection") == "close":
            self.close()
        return Answer(int(lines[0].split()[1]), json.loads(body))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def raw(content: bytes, kind: str = "image/jpeg", path: str = "/predict", length: int | None = None) -> bytes:
    """A request whose body is one file. `length`: what it says instead of the truth."""
    stated = len(content) if length is None else length
    return _head(path, kind, stated) + content


def form(files: list[bytes], *, closed: bool = True, field: str = 'name="image"; filename="photo.jpg"') -> bytes:
    """A request whose body is a form. `closed`: whether it ends as it should."""
    parts = [
        f"--cut\r\nContent-Disposition: form-data; {field}\r\n\r\n".encode() + content + b"\r\n" for content in files
    ]
    body = b"".join(parts) + (b"--cut--\r\n" if closed else b"")
    return raw(body, "multipart/form-data; boundary=cut")


def bomb(side: int) -> bytes:
    """A small PNG whose header states side x side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _head(path: str, kind: str, length: int) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {length}", "", ""]
    return "\r\n".join(lines).encode()


@dataclass(frozen=True, slots=True)
class Hostile:
    """A kind of request that no server may answer with a prediction."""

    name: str
    attack: Callable[[Client, bytes], Answer | None]
    """Carry it out with a good image at hand -> the answer; None where the client leaves before there can be one."""
    statuses: tuple[int, ...]
    """How it must be answered; empty for None."""
    is_slow: bool = False


def _sent(make: Callable[[bytes], bytes]) -> Callable[[Client, bytes], Answer]:
    return lambda client, image: client.ask(make(image))


def _leave(client: Client, image: bytes) -> None:
    client.send(raw(image)[: len(image) // 2])
    client.close()


def _announce(client: Client, image: bytes) -> Answer:
    """Say that a gigabyte comes, and wait for what the server says to that."""
    client.send(raw(image[:1000], length=1_000_000_000))
    answer = client.read()
    client.close()
    return answer


def _drip(of: Callable[[bytes], bytes]) -> Callable[[Client, bytes], Answer]:
    """A byte a second."""

    def attack(client: Client, image: bytes) -> Answer:
        request = of(image)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(request[:-30])
            until = time.monotonic() + _PATIENCE
            for byte in request[-30:]:
                if _answered(client) or time.monotonic() > until:
                    break
                client.send(bytes([byte]))
        answer = client.read()
        client.close()
        return answer

    return attack


def _answered(client: Client) -> bool:
    import select

    assert client._socket is not None
    return bool(select.select([client._socket], [], [], 1.0)[0])


HOSTILE = (
    Hostile("no HTTP", _sent(lambda _: b"GIVE ME EVERYTHING\r\n\r\n"), (400,)),
    Hostile("no image, HTML", _sent(lambda _: raw(b"<html><body>photo</body></html>")), (422,)),
    Hostile("no bytes", _sent(lambda _: raw(b"")), (422,)),
    Hostile("an address", _sent(lambda _: raw(b'{"url": "http://localhost/"}', "application/json")), (415,)),
    Hostile("a form without a file", _sent(lambda _: form([b"http://localhost/"], field='name="url"')), (422,)),
    Hostile("a form that does not end", _sent(lambda image: form([image], closed=False)), (400,)),
    Hostile("half an image", _sent(lambda image: raw(image[: len(image) // 2])), (422,)),
    Hostile("a good and a bad image", _sent(lambda image: form([image, b"nothing"])), (422,)),
    Hostile("a bomb", _sent(lambda _: raw(bomb(30_000), "image/png")), (413,)),
    Hostile("1,000 images", _sent(lambda _: form([b"x"] * 1000)), (413,)),
    Hostile("a gigabyte", _announce, (413,)),
    Hostile("leaving half way", _leave, ()),
    Hostile("a slow body", _drip(raw), (408,), is_slow=True),
    Hostile("a slow header", _drip(lambda _: b"POST /predict HTTP/1.1\r\nX: " + b"x" * 31), (408,), is_slow=True),
)


def plan_mix(good: int, hostile: int, seed: int = 0) -> list[Hostile | None]:
    """So many good requests (None) and hostile ones, every kind equally often, in an order drawn by the seed."""
    kinds: Iterator[Hostile] = (HOSTILE[number % len(HOSTILE)] for number in range(hostile))
    mix: list[Hostile | None] = [None] * good
    mix += kinds
    random.Random(seed).shuffle(mix)
    return mix


def percentile(values: list[float], share: float) -> float:
    """The value that so large a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def memory_mb(pid: int) -> float:
    """Resident memory of a process on Linux, in MB of 10^6 bytes."""
    with Path(f"/proc/{pid}/status").open() as status:
        return next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith("VmRSS"))
