"""Addresses for operators and readers: health, metrics, the description and its page."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse

from recurvid.server.docs_page import POLICY, page
from recurvid.server.metrics import CONTENT_TYPE, Metrics
from recurvid.server.openapi import errors
from recurvid.server.schemas import Health
from recurvid.server.service import Owner

router = APIRouter(tags=["Operation"])


@router.get("/healthz", response_model=Health, responses=errors(), summary="Health")
async def health() -> dict[str, Any]:
    """That the server answers. The only address that never needs a key."""
    return {"status": "ok"}


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Text for Prometheus.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **errors(401),
    },
    summary="Metrics",
)
def metrics(request: Request, _: Owner) -> Response:
    """Jobs by state, queue, frames and seconds made, time of a step, workers, free disk."""
    numbers = request.app.state.metrics
    assert isinstance(numbers, Metrics)
    return Response(numbers.text(), media_type=CONTENT_TYPE)


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> JSONResponse:
    """The description for programs."""
    return JSONResponse(request.app.openapi())


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """The description for people."""
    text = page(request.app.openapi())
    return HTMLResponse(text, headers={"Content-Security-Policy": POLICY})


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """A browser's first address leads to the description."""
    return RedirectResponse("/docs")
