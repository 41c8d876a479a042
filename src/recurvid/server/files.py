"""Files as answers: opened before anything is said of them, with byte ranges."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from recurvid.server.guard import HEAD
from recurvid.server.problems import Problem, answer

_PIECE = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class FileAnswer(Response):
    """One file of a job.

    It is opened first and measured then, so that a file that is replaced meanwhile (the video so
    far) is sent whole. Links are not followed.

    Args:
        path: of the file.
        media_type: of its content.
        name: under which a browser saves it; "" shows it.
        missing: what is told when it is gone.
    """

    def __init__(self, path: Path, media_type: str, name: str = "", missing: str = "it is gone"):
        super().__init__(media_type=media_type)
        self.path, self.missing = path, missing
        del self.headers["content-length"]
        self.headers["accept-ranges"] = "bytes"
        self.headers["cache-control"] = "private, no-cache"
        if name:
            self.headers["content-disposition"] = f'attachment; filename="{name}"'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or the part that was asked for, or that it is gone."""
        try:
            file = await run_in_threadpool(_opened, self.path)
        except OSError:
            await answer(Problem(404, self.missing))(scope, receive, send)
            return
        with file:
            await self._send(file, scope, receive, send)

    async def _send(self, file: BinaryIO, scope: Scope, receive: Receive, send: Send) -> None:
        found = os.fstat(file.fileno())
        asked = Headers(scope=scope)
        self.headers["etag"] = tag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
        if tag in [one.strip() for one in asked.get("if-none-match", "").split(",")]:
            await send({"type": "http.response.start", "status": 304, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b""})
            return
        span = range(found.st_size)
        if asked.get("if-range", tag) == tag:
            try:
                span = asked_range(asked.get("range"), found.st_size)
            except Problem as problem:
                await answer(problem)(scope, receive, send)
                return
        partial = len(span) != found.st_size
        if partial:
            self.headers["content-range"] = f"bytes {span.start}-{span.stop - 1}/{found.st_size}"
        self.headers["content-length"] = str(len(span))
        status = 206 if partial else 200
        await send({"type": "http.response.start", "status": status, "headers": self.raw_headers})
        if scope.get(HEAD):
            span = range(0)
        await _while_connected(receive, lambda: _pieces(file, span, send))


async def _while_connected(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Run a sending coroutine, and stop it when the client has gone away."""
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        await work()
        group.cancel_scope.cancel()


async def _pieces(file: BinaryIO, span: range, send: Send) -> None:
    at = span.start
    file.seek(at)
    while at < span.stop:
        piece = await run_in_threadpool(file.read, min(_PIECE, span.stop - at))
        if not piece:  # cut short by somebody: the client sees that too little came
            break
        at += len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _opened(path: Path) -> BinaryIO:
    """A regular file, open.

    Raises:
        OSError: missing, a link, something else than a file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    return os.fdopen(descriptor, "rb")


def asked_range(text: str | None, size: int) -> range:
    """The bytes that a Range header asks for: one range; anything unknown asks for all.

    Raises:
        Problem: none of it is in the file (416).
    """
    match = None if text is None else _RANGE.fullmatch(text.replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return range(size)
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(int(last) + 1 if last else size, size)
        if last and int(last) < start:
            return range(size)
    if start >= stop:
        raise Problem(
            416, "Range: is not in the file", headers={"content-range": f"bytes */{size}"}
        )
    return range(start, stop)
