"""The gate in front of every address of the page: keys, the login, and what is not served at all.

Gradio has a login of its own, but leaves some addresses outside it; here there is one door. The
keys are the server's (``jobs.access``), sent as a bearer token by programs and exchanged for a
session cookie by people.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from html import escape
from urllib.parse import parse_qs, unquote, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from recurvid.gui.access_log import RequestLog
from recurvid.gui.bounds import UPLOAD, Bounds, Exchange
from recurvid.gui.sayings import say
from recurvid.gui.words import Language, language_for
from recurvid.jobs.access import Access, needs_key

COOKIE = "recurvid-page"
_MOST_SESSIONS = 1000
_LARGEST_FORM = 2000
_WRONG_KEY_SECONDS = 0.5
# Gradio would fetch other hosts, other sessions' runs and workflows for whoever asks.
_REFUSED = (
    "/gradio_api/proxy=",
    "/proxy=",
    "/gradio_api/deep_link",
    "/gradio_api/runs",
    "/monitoring",
)
_REMOTE = re.compile(r"file[=/]\s*[a-z][a-z0-9+.-]+:", re.IGNORECASE)


class Sessions:
    """Who is logged in: a random token of the cookie -> owner. Forgotten with the process."""

    def __init__(self, access: Access):
        self.access = access
        self._owners: OrderedDict[str, str] = OrderedDict()

    def open(self, key: str) -> str | None:
        """A new token for a right key, None for a wrong one."""
        owner = self.access.check(key)
        if owner is None:
            return None
        token = secrets.token_urlsafe(32)
        self._owners[token] = owner
        while len(self._owners) > _MOST_SESSIONS:
            self._owners.popitem(last=False)
        return token

    def owner(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> str | None:
        """The owner that a request speaks for; None if it may not come in."""
        if not self.access.required:
            return ""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.access.check(key.strip())
        given = cookies.get(COOKIE, "")
        found: str | None = None
        for token, owner in tuple(self._owners.items()):
            if hmac.compare_digest(token.encode(), given.encode("utf-8", "replace")):
                found = owner
        return found


class Gate:
    """ASGI middleware around the whole page.

    Args:
        host: where the page listens. On loopback, only requests to a loopback name are answered,
            so that no web site can reach the page through a name that it points here.
        share: whether a public tunnel leads here, under a name that is not known beforehand.
        bounds: of every request.
        full: why nothing may be uploaded now, None while there is room.
    """

    def __init__(
        self,
        app: ASGIApp,
        sessions: Sessions,
        *,
        host: str,
        share: bool = False,
        bounds: Bounds | None = None,
        full: Callable[[], str | None] = lambda: None,
    ):
        self._app, self._sessions = app, sessions
        self._bounds, self._full = bounds or Bounds(), full
        self._loopback_only = not needs_key(host) and not share

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let through."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        log = RequestLog(scope)
        exchange = Exchange(scope, receive, log.noting(send), self._bounds)
        try:
            await self._let_in(Request(scope, exchange.receive), exchange, log)
            await exchange.close()
        except Exception:
            log.status = 500
            raise
        finally:
            log.write()

    async def _let_in(self, request: Request, exchange: Exchange, log: RequestLog) -> None:
        log.owner = self._sessions.owner(request.headers, request.cookies) or ""
        try:
            answer = await self._answer(request) or exchange.too_large()
            await (answer or self._app)(request.scope, exchange.receive, exchange.send)
        except Exception:
            # Gradio makes an error of its own of a body that ends early.
            if exchange.refused is None:
                raise

    async def _answer(self, request: Request) -> Response | None:
        path = unquote(request.url.path)
        if self._loopback_only and needs_key(_name(request.headers.get("host", ""))):
            return PlainTextResponse("this page answers to its own machine only", 403)
        if path == "/healthz":
            return PlainTextResponse("ok")
        if path == "/login":
            return await self._login(request)
        if self._sessions.owner(request.headers, request.cookies) is None:
            if request.method in ("GET", "HEAD") and path in ("/", ""):
                return RedirectResponse("login", 303)
            return PlainTextResponse("a key is needed", 401)
        if path.startswith(_REFUSED) or _REMOTE.search(path):
            return PlainTextResponse("not served here", 403)
        if not self._sessions.access.required and _comes_from_elsewhere(request):
            return PlainTextResponse("other web sites have no say here", 403)
        if path.startswith(UPLOAD) and request.method == "POST" and (why := self._full()):
            language = language_for(request.headers.get("accept-language"))
            return PlainTextResponse(say(language, why), 507)
        return None

    async def _login(self, request: Request) -> Response:
        language = language_for(request.headers.get("accept-language"))
        if request.method != "POST":
            return HTMLResponse(_form(language, wrong=False))
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _LARGEST_FORM:
                return PlainTextResponse("too long", 413)
        key = parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0]
        token = self._sessions.open(key)
        if token is None:
            await asyncio.sleep(_WRONG_KEY_SECONDS)
            return HTMLResponse(_form(language, wrong=True), 401)
        answer = RedirectResponse("./", 303)
        secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
        answer.set_cookie(COOKIE, token, httponly=True, samesite="lax", secure=secure)
        return answer


def _comes_from_elsewhere(request: Request) -> bool:
    """Whether a page of another site makes the browser send this, which needs no key to harm.

    With a key the cookie, which other sites' requests do not carry, is protection enough.
    """
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")


def _name(host: str) -> str:
    """The host of a Host header, without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lstrip("[")
    return host.partition(":")[0]


def _form(language: Language, *, wrong: bool) -> str:
    note = f'<p role="alert">{escape(language("login.wrong"))}</p>' if wrong else ""
    return f"""<!doctype html>
<html lang="{language.code}"><head><meta charset="utf-8"><title>RecurVid</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh;
  margin: 0 16px; }}
form {{ display: grid; gap: 12px; width: min(340px, 100%); }}
input, button {{ font: inherit; padding: 10px 12px; border-radius: 10px;
  border: 1px solid #8fa0ac; }}
button {{ background: #0c8079; border-color: #0c8079; color: white; cursor: pointer; }}
h1 {{ font-size: 20px; margin: 0; }} p {{ margin: 0; color: #b42318; }}
</style></head><body><form method="post" action="login"><h1>{escape(language("login.title"))}</h1>
<label for="key">{escape(language("login.key"))}</label>
<input id="key" name="key" type="password" required autofocus autocomplete="current-password">
{note}<button>{escape(language("login.enter"))}</button></form></body></html>"""
