"""What the routes stand on: the queue, who is asking, and which models are here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Path, Request
from starlette.concurrency import run_in_threadpool

from recurvid.checkpoints.known import KNOWN
from recurvid.checkpoints.locate import status
from recurvid.generation.request import GenerationRequest
from recurvid.jobs.states import HowToRun, Job
from recurvid.jobs.store import JobStore
from recurvid.server.guard import OWNER
from recurvid.server.problems import Problem
from recurvid.server.schemas import ID_PATTERN
from recurvid.server.uploads import Upload

_DECODERS = 2
_MOST_UPLOADS = 32


def _no_workers() -> Mapping[str, bool]:
    return {}


@dataclass(frozen=True)
class Service:
    """One server.

    Attributes:
        store: the queue.
        workers: device -> whether its worker lives.
        stopping: set when the server is asked to end; streams end then.
        decoding: pictures decoded at once; each may need some hundred megabytes.
        streams: clients that listen.
        uploads: bodies with pictures that are being received; each may fill some disk.
    """

    store: JobStore
    workers: Callable[[], Mapping[str, bool]] = _no_workers
    stopping: threading.Event = field(default_factory=threading.Event)
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_DECODERS))
    streams: set[object] = field(default_factory=set)
    uploads: set[object] = field(default_factory=set)

    async def add(
        self,
        request: GenerationRequest,
        how: HowToRun,
        owner: str,
        pictures: tuple[Upload, Upload | None],
        title: str,
    ) -> Job:
        """Queue a video that came over the network. The model must be here already."""
        limits = self.store.limits
        for name, upload in zip(("picture", "end_picture"), pictures, strict=True):
            if upload is not None:
                limits.check_upload(upload.size, name)
        picture, end = pictures
        async with self.decoding:
            await run_in_threadpool(require_model, request.model)
            return await run_in_threadpool(
                self.store.add,
                request,
                await picture.read(),
                end_picture=None if end is None else await end.read(),
                owner=owner,
                how=how,
                title=title or picture.name,
            )

    @contextmanager
    def uploading(self) -> Generator[None]:
        """Around one upload; Problem when there are too many at once."""
        if len(self.uploads) >= _MOST_UPLOADS:
            raise Problem(429, "too many uploads at once; try again", "too_many_uploads")
        mark = object()
        self.uploads.add(mark)
        try:
            yield
        finally:
            self.uploads.discard(mark)


def model_is_present(name: str) -> bool:
    """Whether all parts of a known model are on this machine. Touches no network."""
    return all(part.path is not None for part in status(KNOWN[name]))


def require_model(name: str) -> None:
    """Raise Problem unless a request may name the model: nothing is fetched for a stranger."""
    if name not in KNOWN:
        known = ", ".join(KNOWN)
        message = f"model: {name[:60]!r} is unknown; one of {known}"
        raise Problem(400, message, "model_not_found", parameter="model")
    if not model_is_present(name):
        message = f"model: the files of {name!r} are not on this server"
        raise Problem(400, message, "model_not_installed", parameter="model")


def service_of(request: Request) -> Service:
    """The server that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def owner_of(request: Request) -> str:
    """Who is asking, as the guard found."""
    owner = request.scope[OWNER]
    assert isinstance(owner, str)
    return owner


Serving = Annotated[Service, Depends(service_of)]
Owner = Annotated[str, Depends(owner_of)]
JobId = Annotated[str, Path(pattern=ID_PATTERN, description="Name of a job.")]
