"""Who and what comes in: host names, other sites, keys, sizes and pace of bodies; on every address.

Plain ASGI around the whole application, so that nothing is parsed before it was let in.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recurvid.jobs.access import Access
from recurvid.jobs.arrivals import Pace, TimedBody, too_large
from recurvid.server.problems import Problem, answer

_LOG = logging.getLogger("recurvid.server.requests")
OPEN_ADDRESSES = ("/healthz",)
OWNER = "recurvid.owner"
HEAD = "recurvid.head"
_SAFE = ("GET", "HEAD", "OPTIONS")
_LARGEST_JSON = 1_000_000
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Gate:
    """What is let in.

    Attributes:
        access: the keys.
        hosts: the only names under which requests may come, lower case without port; None for
            any. A page of another site whose name was pointed at this machine has another one.
        body_bytes: most bytes of a body, by path; other paths take a little JSON.
        grace_seconds: what any body may take; after that it must have come faster than ``pace``.
        pace: bytes a second.
    """

    access: Access
    hosts: frozenset[str] | None
    body_bytes: Mapping[str, int]
    grace_seconds: float = 20.0
    pace: float = 16_384.0

    def most_bytes(self, path: str) -> int:
        """Of a body that is sent to an address."""
        return self.body_bytes.get(path, _LARGEST_JSON)


class Guard:
    """ASGI middleware that lets in what a gate lets in, and logs every request in one line."""

    def __init__(self, app: ASGIApp, gate: Gate):
        self.app, self.gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's start and end."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        began, status = time.monotonic(), 0
        gate = self.gate
        pace = Pace(gate.grace_seconds, gate.pace)
        body = TimedBody(receive, scope, gate.most_bytes(scope["path"]), pace, Problem)

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if not body.whole:  # nobody will read the rest
                    headers["connection"] = "close"
            await send(message)

        try:
            try:
                self._admit(scope)
            except Problem as refusal:
                await answer(refusal)(scope, receive, send_guarded)
                return
            await self.app(_as_get(scope), body.receive, send_guarded)
        finally:
            _log_request(scope, status, time.monotonic() - began)

    def _admit(self, scope: Scope) -> None:
        """Raise Problem unless the request may be read any further; notes its owner."""
        headers = Headers(scope=scope)
        self._check_host(headers)
        _check_origin(scope["method"], headers)
        owner = self.gate.access.check(given_key(headers))
        if owner is None and scope["path"] not in OPEN_ADDRESSES:
            raise Problem(
                401,
                "a key is needed: send it as 'Authorization: Bearer KEY'",
                headers={"www-authenticate": 'Basic realm="RecurVid", charset="UTF-8"'},
            )
        scope[OWNER] = owner or ""
        length = headers.get("content-length")
        if length is not None and not (length.isascii() and length.isdecimal()):
            raise Problem(400, "Content-Length: is not a number")
        most = self.gate.most_bytes(scope["path"])
        if length is not None and int(length[:20]) > most:
            raise Problem(413, too_large(most))

    def _check_host(self, headers: Headers) -> None:
        names = headers.getlist("host")
        if len(names) != 1:
            raise Problem(400, "Host: exactly one is needed")
        if self.gate.hosts is not None and host_name(names[0]) not in self.gate.hosts:
            raise Problem(403, "Host: this server does not answer to that name", "wrong_host")


def _as_get(scope: Scope) -> Scope:
    """A HEAD request as the GET that it asks about; the protocol leaves the body out.

    Streams of events have no end that could be told.
    """
    if scope["method"] != "HEAD" or scope["path"].endswith("/events"):
        return scope
    return {**scope, "method": "GET", HEAD: True}


def host_name(text: str) -> str:
    """A Host header without its port, lower case."""
    text = text.strip().lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0].rstrip(".")


def _check_origin(method: str, headers: Headers) -> None:
    """A page of another site may make a browser send things here, with the user's own rights."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != headers["host"].lower():
        raise Problem(403, "Origin: other sites may not use this server", "wrong_origin")
    if method not in _SAFE and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Problem(403, "Sec-Fetch-Site: other sites may not use this server", "wrong_origin")


def given_key(headers: Headers) -> str | None:
    """The key of a request: a bearer token, or the password of basic authentication."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, ValueError):
            return None
    return None


def _log_request(scope: Scope, status: int, seconds: float) -> None:
    level = logging.DEBUG if scope["path"] in OPEN_ADDRESSES else logging.INFO
    facts = {
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": status,
        "seconds": round(seconds, 4),
        "owner": scope.get(OWNER, ""),
        "client": (scope.get("client") or ("",))[0],
    }
    _LOG.log(level, "request", extra=facts)
