"""How a file of a job is sent by server and page: opened before anything is said of it, in parts.

Plain ASGI, without the libraries that serve: each of the two brings its own.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from recurvid.jobs.arrivals import Message, Receive, Scope

Send = Callable[[Message], Awaitable[None]]
Refuse = Callable[[int, Mapping[str, str]], Awaitable[None]]

_PIECE = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_MISSING, _NOT_IN_FILE = 404, 416


@dataclass(frozen=True)
class FileToSend:
    """One file, and what is said of it.

    It is opened first and measured then, so that a file that is replaced meanwhile (the video so
    far) is sent whole: the length of the one, and the bytes of the same. Links are not followed.

    Attributes:
        path: of the file.
        headers: of the answer, beside those of length, range and version; names in lower case.
    """

    path: Path
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    async def send(
        self, scope: Scope, receive: Receive, send: Send, refuse: Refuse, *, body: bool = True
    ) -> None:
        """Send the file, or the part that was asked for.

        Args:
            refuse: answers instead, given a status (404: it is gone; 416: the part is not in it)
                and headers.
            body: whether to send it; a HEAD request gets the headers only.
        """
        try:
            file = await asyncio.to_thread(opened, self.path)
        except OSError:
            await refuse(_MISSING, {})
            return
        with file:
            found = os.fstat(file.fileno())
            asked = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
            }
            tag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
            headers = {"accept-ranges": "bytes", **self.headers, "etag": tag}
            if tag in [one.strip() for one in asked.get("if-none-match", "").split(",")]:
                await _send_head(send, 304, headers)
                await send({"type": "http.response.body", "body": b""})
                return
            given = asked.get("range") if asked.get("if-range", tag) == tag else None
            span = asked_range(given, found.st_size)
            if span is None:
                await refuse(_NOT_IN_FILE, {"content-range": f"bytes */{found.st_size}"})
                return
            partial = len(span) != found.st_size
            if partial:
                headers["content-range"] = f"bytes {span.start}-{span.stop - 1}/{found.st_size}"
            headers["content-length"] = str(len(span))
            await _send_head(send, 206 if partial else 200, headers)
            part = span if body else range(0)
            await _while_connected(receive, _pieces(file, part, send))


def opened(path: Path) -> BinaryIO:
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


def asked_range(text: str | None, size: int) -> range | None:
    """The bytes that a Range header asks for: one range; anything unknown asks for all.

    Returns:
        The bytes; None if none of them is in the file.
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
    return range(start, stop) if start < stop else None


async def _send_head(send: Send, status: int, headers: Mapping[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run a sending coroutine, and stop it when the client has gone away."""

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = {asyncio.create_task(work), asyncio.create_task(left())}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _pieces(file: BinaryIO, span: range, send: Send) -> None:
    at = span.start
    file.seek(at)
    while at < span.stop:
        piece = await asyncio.to_thread(file.read, min(_PIECE, span.stop - at))
        if not piece:  # cut short by somebody: the client sees that too little came
            break
        at += len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
