"""How requests may arrive at the server and at the page: headers and bodies in bounds, in time.

Without the libraries that serve: each of the two brings its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MOST_CONNECTIONS = 1000
_HEADER_SECONDS = 15.0


@dataclass(frozen=True)
class Pace:
    """How fast a body must come.

    Attributes:
        grace_seconds: what any body may take; after that it must have come faster than ``bytes``.
        bytes: a second.
    """

    grace_seconds: float = 20.0
    bytes: float = 16_384.0


class TimedBody:
    """The body of one request, counted and timed while it is read.

    Args:
        most: bytes that are taken.
        refuse: makes the exception that reading raises, from a status and a line of text.
    """

    def __init__(
        self,
        receive: Receive,
        scope: Scope,
        most: int,
        pace: Pace,
        refuse: Callable[[int, str], Exception],
    ):
        headers = dict(scope["headers"])
        self._receive, self._refuse = receive, refuse
        self._most, self._pace = most, pace
        self._began, self._bytes = time.monotonic(), 0
        #: Whether all of it was read; where there is none, it was.
        self.whole = (
            b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"
        )

    async def receive(self) -> Message:
        """The next message of the request."""
        if self.whole:  # what follows is the client going away, whenever that may be
            return await self._receive()
        allowed = self._pace.grace_seconds + self._bytes / self._pace.bytes
        left = self._began + allowed - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except TimeoutError:
            raise self._refuse(408, "the body came too slowly") from None
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._most:
            raise self._refuse(413, too_large(self._most))
        self.whole = not message.get("more_body", False)
        return message


def too_large(most: int) -> str:
    """What is said of a body above ``most`` bytes."""
    return f"the body is too large; at most {most} bytes"


class TimedHeaders:
    """Mixed into uvicorn's protocol of HTTP/1.1: waits only so long for the headers of a request.

    The first and every later one; bodies are timed by :class:`TimedBody`.

    Attributes:
        idle: the parser's state between requests.
    """

    header_seconds = _HEADER_SECONDS
    idle: Any = None
    conn: Any
    loop: Any
    transport: Any
    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client is there; its first request must follow."""
        super().connection_made(transport)  # type: ignore[misc]
        self._time_headers()

    def data_received(self, data: bytes) -> None:
        """Bytes came; stop or start the clock."""
        super().data_received(data)  # type: ignore[misc]
        self._time_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_timer()
        super().connection_lost(exc)  # type: ignore[misc]

    def _time_headers(self) -> None:
        if self.conn.their_state is not self.idle or self.transport.is_closing():
            self._stop_timer()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        # After a request whose answer is still being made, the client owes nothing.
        if self.conn.their_state is self.idle and not self.transport.is_closing():
            self.transport.close()
