"""Pieces of the OpenAPI description that FastAPI cannot know by itself."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from recurvid import __version__
from recurvid.server.examples import EXAMPLES
from recurvid.server.schemas import ErrorBody

BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
_WORDS = {
    400: "The request cannot be used; the message says what to change.",
    401: "No key, or a wrong one.",
    403: "Another site, or another name of this server.",
    404: "There is no such thing, or it is somebody else's, or not there yet.",
    408: "The body came too slowly.",
    409: "The job is in a state in which that is not possible.",
    413: "Too large.",
    415: "Not the media type that is taken here.",
    416: "The range is not in the file.",
    429: "The queue is full, or there are too many of yours in it.",
    503: "The disk is full; a later try may do.",
}
_ABOUT = """One picture and a prompt become a video, section by section.

`/v1/videos` is OpenAI's video API. `/api` has everything else: all fields of a request, how to run
it, progress as it happens, cancel, resume, edit, reorder. Both speak of the same jobs.
"""


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Documented error answers. What the guard may say anywhere comes along."""
    listed = sorted({*codes, 400, 403, 408, 413})
    return {code: {"model": ErrorBody, "description": _WORDS[code]} for code in listed}


def form_body(schema: dict[str, Any], **encoding: str) -> dict[str, Any]:
    """``openapi_extra`` of a route that takes a form.

    Args:
        encoding: name of a part -> its media type.
    """
    content: dict[str, Any] = {"schema": schema}
    if encoding:
        content["encoding"] = {name: {"contentType": kind} for name, kind in encoding.items()}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": content}}}


def describe(app: FastAPI, *, keyed: bool) -> dict[str, Any]:
    """The whole description: routes, errors in our form, keys, examples that run."""
    made = get_openapi(title="RecurVid", version=__version__, description=_ABOUT, routes=app.routes)
    components = made.setdefault("components", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        components.get("schemas", {}).pop(unused, None)
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            operation["responses"].pop("422", None)
            shown = [e for e in EXAMPLES if (e.method, e.path) == (method.upper(), path)]
            if shown:
                operation["x-codeSamples"] = [
                    {
                        "lang": "Shell",
                        "label": e.title,
                        "source": e.keyed() if keyed else e.command,
                    }
                    for e in shown
                ]
            if keyed and path != "/healthz":
                operation["security"] = [{"key": []}, {"password": []}]
    if keyed:
        components["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer"},
            "password": {"type": "http", "scheme": "basic", "description": "The key as password."},
        }
    return made
