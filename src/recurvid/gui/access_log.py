"""One line of the log a request to the page, in the form that the server's have."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from starlette.types import Message, Scope, Send

_LOG = logging.getLogger("recurvid.gui.requests")
# What a person does: open the page, log in, bring a picture, press a button. All else a page asks
# for by itself, again and again.
_DONE_BY_HAND = ("/", "/login", "/gradio_api/upload", "/gradio_api/queue/join")
_MEDIA = "/media/"
_LONGEST = 200


@dataclass
class RequestLog:
    """One request: what was asked, and what came of it.

    Attributes:
        owner: who asks, once that is known.
        status: of the answer; 0 if there was none.
    """

    scope: Scope
    owner: str = ""
    status: int = 0
    _began: float = field(default_factory=time.monotonic)

    def noting(self, send: Send) -> Send:
        """The same way to answer, noting how it ends."""

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            await send(message)

        return note

    def write(self) -> None:
        """Say it: refusals and errors always, of the rest what a person did."""
        path = told_path(self.scope["path"])
        level = logging.INFO if path in _DONE_BY_HAND or self.status >= 400 else logging.DEBUG
        facts = {
            "method": self.scope["method"],
            "path": path,
            "status": self.status,
            "seconds": round(time.monotonic() - self._began, 4),
            "owner": self.owner,
            "client": (self.scope.get("client") or ("",))[0],
        }
        _LOG.log(logging.WARNING if self.status >= 500 else level, "request", extra=facts)


def told_path(path: str) -> str:
    """A path without what it may give away: names of files, and sessions that one could join."""
    if path.startswith(_MEDIA):
        return path[:_LONGEST]
    bare = path.rstrip("/") or "/"
    if bare in _DONE_BY_HAND:
        return bare
    first = path.partition("=")[0].split("/")[:3]
    return "/".join(first)[:_LONGEST]
