"""The application: routes behind a guard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from recurvid import __version__
from recurvid.jobs.access import Access
from recurvid.server import jobs_api, live, models, pages, videos
from recurvid.server.guard import Gate, Guard
from recurvid.server.metrics import Metrics
from recurvid.server.openapi import describe
from recurvid.server.problems import handle_problems
from recurvid.server.service import Service

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_FORM_BYTES = 1_000_000
# Newer releases of FastAPI can send traces to wherever the environment says.
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
_UPLOAD_PATHS = ("/v1/videos", "/api/jobs")


def create_app(service: Service, gate: Gate) -> ASGIApp:
    """The whole server as an ASGI application.

    Args:
        service: the queue behind it.
        gate: who and what is let in.
    """
    app = FastAPI(
        title="RecurVid",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan,
        redirect_slashes=False,
        telemetry=_NO_TELEMETRY,
    )
    app.state.service = service
    app.state.metrics = Metrics(service)
    for router in (videos.router, models.router, jobs_api.router, live.router, pages.router):
        app.include_router(router)
    handle_problems(app)
    described: list[dict[str, Any]] = []

    def openapi() -> dict[str, Any]:
        if not described:
            described.append(describe(app, keyed=gate.access.required))
        return described[0]

    app.openapi = openapi
    return Guard(app, gate)


def gate_for(
    service: Service, access: Access, hosts: frozenset[str] | None = LOOPBACK_NAMES
) -> Gate:
    """The usual gate of a server.

    Args:
        hosts: names it answers to; None for any.
    """
    # Two pictures in a form, or one as text (four bytes for three) in JSON.
    most = 2 * service.store.limits.upload_bytes + _FORM_BYTES
    return Gate(access, hosts, dict.fromkeys(_UPLOAD_PATHS, most))


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    counting = asyncio.create_task(app.state.metrics.follow())
    try:
        yield
    finally:
        counting.cancel()
        with suppress(asyncio.CancelledError):
            await counting
