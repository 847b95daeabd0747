"""HTTP/1.1 by uvicorn, and what it lacks against clients that hold a connection: without saying what they want, or
without reading what they are answered."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from zoo.serving.problems import MEDIA_TYPE, Problem

HEADER_SECONDS = 10.0
"""Time from a connection to the end of the header of its first request."""
STALLED_SECONDS = 30.0
"""Time in which a client must take something of what is written to it. It is cut off at the latest after twice that."""
MOST_CONNECTIONS = 900
"""Most connections together: many systems allow a process 1,024 open files."""


class GuardedProtocol(H11Protocol):
    """A connection that is closed where no whole header arrives in time, and that answers nonsense as RFC 9457 says."""

    def __init__(self, config: Config, *args: Any, **named: Any) -> None:
        super().__init__(config, *args, **named)
        self._header_timer: asyncio.TimerHandle | None = None
        self._taking_timer: asyncio.TimerHandle | None = None
        self._untaken: tuple[int, object, bool] = (0, None, False)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_taking()
        # Answered and closed here: at the limit on open files, the system would let clients wait without a word.
        if len(self.connections) > MOST_CONNECTIONS:
            problem = Problem(503, "busy", "There are too many connections. Next: try again.", retry_after=1)
            self._refuse(problem)
            return
        self._await_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # After an answer, the connection may wait for its next request: uvicorn's own timer ends that.
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._header_timer is None and not self.transport.is_closing():
            self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._taking_timer is not None:
            self._taking_timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        # Once an answer has begun, a second status line would be read as a part of its body.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(Problem(400, "malformed", "This is not a valid HTTP request."))
        else:
            self.transport.close()

    def _watch_taking(self) -> None:
        """Cut off a client that has taken nothing since the last look, and look again later.

        A connection that is closed stays until all is taken that was written to it, for ever where nobody reads it.
        """
        complete = self.cycle is not None and self.cycle.response_complete
        now = self.transport.get_write_buffer_size(), self.cycle, complete
        # Where another answer was begun or completed, more may have been written than was taken.
        if now[0] and now[0] >= self._untaken[0] > 0 and now[1:] == self._untaken[1:]:
            self.transport.abort()
            return
        self._untaken = now
        self._taking_timer = self.loop.call_later(STALLED_SECONDS, self._watch_taking)

    def _await_header(self) -> None:
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _give_up(self) -> None:
        self._header_timer = None
        if not self.transport.is_closing():
            self._refuse(
                Problem(
                    408,
                    "too_slow",
                    f"No whole header arrived within {HEADER_SECONDS:g} s. Next: send a request at once.",
                )
            )

    def _refuse(self, problem: Problem) -> None:
        # Written by hand, as no request has been read that starlette could answer.
        body = problem.body()
        lines = [
            f"HTTP/1.1 {problem.status} Error",
            f"Content-Type: {MEDIA_TYPE}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in problem.headers.items()),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        self.transport.close()
