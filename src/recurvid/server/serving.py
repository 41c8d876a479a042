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

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from recurvid.errors import ComponentError, InputError
from recurvid.jobs.arrivals import MOST_CONNECTIONS, TimedHeaders

_GRACE_SECONDS = 5
_LOG = logging.getLogger(__name__)


class TimedProtocol(TimedHeaders, H11Protocol):
    """HTTP/1.1 that waits only so long for headers."""

    idle = h11.IDLE


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
        limit_concurrency=MOST_CONNECTIONS,
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
