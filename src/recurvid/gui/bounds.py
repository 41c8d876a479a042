"""How large and how slow a request to the page may be, and what every answer says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from recurvid.jobs.arrivals import Pace, TimedBody, too_large

UPLOAD = "/gradio_api/upload"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "frame-ancestors 'self'; object-src 'none'; base-uri 'self'",
}


@dataclass(frozen=True)
class Bounds:
    """How large and how slow a request may be.

    Attributes:
        upload: bytes of one upload; Gradio bounds each file in it.
        other: bytes of any other body, which is a little JSON.
    """

    upload: int = 2_000_000_000
    other: int = 2_000_000
    pace: Pace = field(default_factory=Pace)

    def most(self, path: str) -> int:
        """Of a body that is sent to a path."""
        return self.upload if path.rstrip("/") == UPLOAD else self.other


class _Refused(Exception):
    """A body that is not read any further."""

    def __init__(self, status: int, text: str):
        self.status, self.text = status, text
        super().__init__(text)


class Exchange:
    """One request and its answer, in bounds, and with the headers that every answer has."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, bounds: Bounds):
        self._scope, self._send = scope, send
        self._most = bounds.most(unquote(scope["path"]))
        self._body = TimedBody(receive, scope, self._most, bounds.pace, _Refused)
        self._begun = False
        self.refused: _Refused | None = None

    def too_large(self) -> Response | None:
        """The refusal of a body that says itself that it is too large."""
        given = dict(self._scope["headers"]).get(b"content-length", b"0")
        if given.isdigit() and int(given[:20]) > self._most:
            return PlainTextResponse(too_large(self._most), 413)
        return None

    async def receive(self) -> Message:
        """A part of the body."""
        try:
            return await self._body.receive()
        except _Refused as refusal:
            self.refused = refusal
            raise

    async def send(self, message: Message) -> None:
        """A part of the application's answer; nothing more once the body was refused."""
        if self.refused is not None and not self._begun:
            return
        if message["type"] == "http.response.start":
            self._begun = True
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if not self._body.whole:  # nobody will read the rest
                headers["connection"] = "close"
        await self._send(message)

    async def close(self) -> None:
        """Say why a body was refused, if it was and nothing else was said."""
        if (refused := self.refused) is None or self._begun:
            return
        self.refused = None
        answer = PlainTextResponse(refused.text, refused.status)
        await answer(self._scope, self._body.receive, self.send)
