"""Errors as answers: one JSON form (OpenAI's), a status, and never a path or a trace."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from recurvid.errors import (
    InputError,
    JobStateError,
    LimitError,
    RecurVidError,
    UnknownJobError,
)
from recurvid.generation.request import request_fields
from recurvid.jobs.failures import disk_is_full
from recurvid.jobs.states import HowToRun

_LOG = logging.getLogger(__name__)
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_LIMIT_STATUS = {"upload_too_large": 413, "queue_full": 429, "too_many_jobs": 429, "disk_full": 503}
_CODES = {
    400: "invalid_request", 401: "invalid_api_key", 403: "forbidden", 404: "not_found",
    405: "method_not_allowed", 408: "upload_too_slow", 409: "wrong_state", 411: "length_required",
    413: "upload_too_large", 415: "unsupported_media_type", 416: "range_not_satisfiable",
    422: "invalid_request", 429: "too_many_requests",
}  # fmt: skip
_FIELDS = {"picture", "end_picture", "how"} | {
    spec.name for spec in (*request_fields(), *fields(HowToRun))
}
# Messages are written without paths; this is the second line of defence.
_PATH = re.compile(r"(?<![\w:/.])(?:/[\w.@+-]+){2,}/?|[A-Za-z]:\\[^\s'\"]+")


class Problem(Exception):
    """Something that a client is told.

    Args:
        status: of the answer.
        message: one line.
        code: for machines; by default that of the status.
        parameter: which field it is about.
        headers: beside the usual ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        parameter: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        self.status, self.message, self.parameter = status, message, parameter
        self.code = code or _CODES.get(status, "server_error")
        self.headers = dict(headers or {})
        super().__init__(message)


def without_paths(text: str) -> str:
    """A line with whatever looks like a path on this machine taken out."""
    return " ".join(_PATH.sub("(a file)", text).split())


def body_of(problem: Problem) -> dict[str, Any]:
    """The JSON of an answer, in the form that OpenAI's clients read."""
    kind = _TYPES.get(problem.status)
    if kind is None:
        kind = "server_error" if problem.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": without_paths(problem.message),
            "type": kind,
            "param": problem.parameter,
            "code": problem.code,
        }
    }


def answer(problem: Problem) -> JSONResponse:
    """The response of a problem."""
    headers = dict(problem.headers)
    if problem.status == 409:
        headers["x-should-retry"] = "false"  # OpenAI's client would try a wrong state again
    if problem.status == 503:
        headers.setdefault("retry-after", "30")
    if problem.status in (408, 413):
        headers["connection"] = "close"  # the rest of the body is not read
    return JSONResponse(body_of(problem), problem.status, headers)


def problem_of(error: RecurVidError) -> Problem:
    """What a client is told of an error of ours."""
    text = str(error)
    if isinstance(error, UnknownJobError):
        return Problem(404, text)
    if isinstance(error, JobStateError):
        return Problem(409, text)
    if isinstance(error, LimitError):
        status = _LIMIT_STATUS.get(error.code, 400)
        return Problem(status, text, error.code, parameter=_parameter(text))
    if isinstance(error, InputError):
        return Problem(400, text, parameter=_parameter(text))
    return Problem(400, text, "refused")


def _parameter(message: str) -> str | None:
    name = message.partition(":")[0]
    return name if name in _FIELDS else None


def handle_problems(app: FastAPI) -> None:
    """Answer every exception in the one form."""
    app.add_exception_handler(Problem, _handled)
    app.add_exception_handler(RecurVidError, _handled)
    app.add_exception_handler(RequestValidationError, _handled)
    app.add_exception_handler(HTTPException, _handled)
    # Named besides Exception: what only that one handles is raised again for the server's log.
    app.add_exception_handler(ClientDisconnect, _handled)
    app.add_exception_handler(OSError, _handled)
    app.add_exception_handler(sqlite3.Error, _handled)
    app.add_exception_handler(Exception, _handled)


async def _handled(request: Request, error: Exception) -> Response:
    match error:
        case Problem():
            return answer(error)
        case RecurVidError():
            return answer(problem_of(error))
        case RequestValidationError():
            return answer(_invalid(error))
        case HTTPException():
            detail = error.detail if error.status_code < 500 else "the server failed"
            if (error.status_code, detail) == (404, "Not Found"):
                detail = "there is no such address; /docs lists those that there are"
            return answer(Problem(error.status_code, detail, headers=error.headers))
        case ClientDisconnect():
            return answer(Problem(400, "the body ended too early"))  # nobody reads this
        case _ if disk_is_full(error):
            return answer(Problem(503, "the server's disk is full; try again later", "disk_full"))
        case _:
            _LOG.error(
                "a request failed",
                exc_info=error,
                extra={"method": request.method, "path": request.url.path},
            )
            return answer(Problem(500, "the server failed; its log says why"))


def _invalid(error: RequestValidationError) -> Problem:
    """FastAPI's own checks: of a path, a query, a JSON body."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    if where[:1] == ["path"]:
        what, code = ("model", "model_not_found") if where[1:] == ["model"] else ("job", None)
        return Problem(404, f"there is no such {what}", code)
    name = ".".join(where[1:])[:80]
    return Problem(400, f"{name or 'body'}: {str(first['msg'])[:200]}", parameter=name or None)
