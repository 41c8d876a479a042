"""Pictures and videos of jobs for the browser, by job and kind; never by path."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from recurvid.errors import UnknownJobError
from recurvid.jobs.sending import FileToSend
from recurvid.jobs.states import Job
from recurvid.jobs.store import JobStore

Owner = Callable[[Request], str | None]

KINDS = {
    "picture": "image/png",
    "preview": "image/webp",
    "thumbnail": "image/webp",
    "so-far": "video/mp4",
    "video": "video/mp4",
}
_NOT_IN_NAMES = re.compile(r"[^\w .,()-]+")


def routes(store: JobStore, owner: Owner) -> list[Route]:
    """The addresses of media: ``/media/<job>/<kind>``.

    Args:
        owner: of a request; None refuses it.
    """

    def media(request: Request) -> Response:
        who = owner(request)
        if who is None:
            return PlainTextResponse("a key is needed", 401)
        kind = request.path_params["kind"]
        try:
            job = store.get(request.path_params["job"], who)
            if kind == "preview" and (look := _preview(store, job)) is not None:
                return Response(look, media_type=KINDS[kind], headers=_headers(request))
            path = file_of(store, job, kind)
            if kind == "preview":  # the job ended between page and picture
                kind, path = _still(store, job)
        except UnknownJobError:
            return PlainTextResponse("not found", 404)
        if path is None:
            return PlainTextResponse("not found", 404)
        return _answer(request, job, kind, path)

    return [Route("/media/{job}/{kind}", media, methods=["GET", "HEAD"])]


def address(store: JobStore, job: Job, kind: str) -> str | None:
    """Where the browser finds a file of a job; None while there is none.

    The file's time is part of it, so that what has changed is fetched anew and nothing else is.
    """
    path = file_of(store, job, kind)
    try:
        return f"media/{job.id}/{kind}?v={path.stat().st_mtime_ns:x}" if path else None
    except OSError:
        return None


def file_of(store: JobStore, job: Job, kind: str) -> Path | None:
    """The file itself, or None."""
    find = {
        "picture": store.picture,
        "preview": store.preview,
        "thumbnail": store.thumbnail,
        "so-far": store.so_far,
        "video": store.video,
    }
    return find[kind](job.id) if kind in find else None


def _preview(store: JobStore, job: Job) -> bytes | None:
    """The preview at once: it is small, and replaced while it is sent."""
    path = store.preview(job.id)
    try:
        return None if path is None or path.is_symlink() else path.read_bytes()
    except OSError:
        return None


def _still(store: JobStore, job: Job) -> tuple[str, Path]:
    thumbnail = store.thumbnail(job.id)
    return ("picture", store.picture(job.id)) if thumbnail is None else ("thumbnail", thumbnail)


class _MediaAnswer(Response):
    """A file that may be replaced while it is sent."""

    def __init__(self, path: Path, headers: Mapping[str, str]):
        super().__init__()
        self._file = FileToSend(path, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def refuse(status: int, headers: Mapping[str, str]) -> None:
            text = "not found" if status == 404 else "not in the file"
            await PlainTextResponse(text, status, dict(headers))(scope, receive, send)

        await self._file.send(scope, receive, send, refuse, body=scope["method"] != "HEAD")


def _answer(request: Request, job: Job, kind: str, path: Path) -> Response:
    headers = {"content-type": KINDS[kind], **_headers(request)}
    if "download" in request.query_params:
        stem = _NOT_IN_NAMES.sub(" ", job.title.rsplit(".", 1)[0]).strip()[:60] or "video"
        name = f"{stem} {job.id[6:14]}{'.mp4' if KINDS[kind] == 'video/mp4' else path.suffix}"
        headers["content-disposition"] = f"attachment; filename*=utf-8''{quote(name)}"
    return _MediaAnswer(path, headers)


def _headers(request: Request) -> dict[str, str]:
    return {
        "cache-control": "private, max-age=86400" if "v" in request.query_params else "no-store",
        "x-content-type-options": "nosniff",
    }
