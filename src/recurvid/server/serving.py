"""A socket, an event loop and the application: from the first connection to a clean end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from recurvid.errors import ComponentError, InputError

_HEADER_SECONDS = 15.0
_GRACE_SECONDS = 5
_MOST_CONNECTIONS = 1000
_LOG = logging.getLogger(__name__)


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that waits only so long for the headers of a request, the first and every later.

    Bodies are timed by the guard.
    """

    header_seconds = _HEADER_SECONDS

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; its first request must follow."""
        super().connection_made(transport)
        self._time_headers()

    def data_received(self, data: bytes) -> None:
        """Bytes came; stop or start the clock."""
        super().data_received(data)
        self._time_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def _time_headers(self) -> None:
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
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
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn, which says when it was asked to end, so that streams can end too."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event):
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or Ctrl-C."""
        self._stopping.set()
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        InputError: no such address.
        ComponentError: the port is in use or not for us.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise InputError(f"host {host!r}: is not an address of this machine") from None
    made = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # where it would let two servers share a port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
    except OSError as error:
        made.close()
        reason = error.strerror or str(error)
        raise ComponentError(
            f"cannot listen on {host} port {port} ({reason}); choose another with --port"
        ) from None
    made.set_inheritable(False)
    return made


def address_of(host: str, bound: socket.socket) -> str:
    """The URL at which a bound socket answers."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{bound.getsockname()[1]}"


def serve(
    app: ASGIApp,
    bound: socket.socket,
    stopping: threading.Event,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests that are being answered.

    Args:
        stopping: set as soon as the end was asked for.
        started: called once requests are answered.
    """
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        proxy_headers=False,
    )
    server = _Server(config, stopping)

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            started()
        await serving
        if not server.started:
            raise ComponentError("the server could not start; its log says why")

    # uvicorn raises the signal once more when it is done: that one has been obeyed.
    before = {name: signal.signal(name, _obeyed) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        asyncio.run(run())
    finally:
        stopping.set()
        for name, handler in before.items():
            signal.signal(name, handler)


def _obeyed(number: int, _frame: FrameType | None) -> None:
    _LOG.info("stopped", extra={"signal": signal.Signals(number).name})
