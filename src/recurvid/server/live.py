"""What happens, as it happens: server-sent events that go on where a client stopped reading."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from recurvid.errors import UnknownJobError
from recurvid.jobs.states import JobEvent
from recurvid.server.openapi import errors
from recurvid.server.problems import Problem
from recurvid.server.service import JobId, Owner, Service, Serving

router = APIRouter(prefix="/api", tags=["Jobs"])

_POLL_SECONDS = 0.25
_HEARTBEAT_SECONDS = 15.0
_MOST_STREAMS = 200
_LAST = 2**53
KINDS = ("state", "planned", "progress", "preview", "section", "finished")
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events: `state`, `planned`, `progress`, `preview`, `section`, `finished`. "
        "Each has `id`, `event` and JSON `data`; a comment line keeps the connection alive.",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "required": ["id", "event", "data"],
                    "properties": {
                        "id": {"type": "string", "pattern": "^[0-9]+$"},
                        "event": {"type": "string", "enum": list(KINDS)},
                        "data": {"type": "string", "contentMediaType": "application/json"},
                    },
                }
            }
        },
    }
}
After = Annotated[int, Query(ge=0, le=_LAST, description="Number of the last event you know.")]
LastEventId = Annotated[str, Header(max_length=40, description="The same, as browsers send it.")]


@router.get(
    "/jobs/{id}/events",
    response_class=Response,
    responses={
        **_STREAM,
        204: {"description": "It is over and you know everything: do not ask again."},
        **errors(401, 404, 429),
    },
    summary="Follow a job",
)
async def follow_job(
    id: JobId, service: Serving, owner: Owner, after: After = 0, last_event_id: LastEventId = ""
) -> Response:
    """Events of one job from its beginning, or after one you know, until it is over."""
    job = await run_in_threadpool(service.store.get, id, owner)
    start = _start(after, last_event_id)
    if start and not job.state.is_active:
        more = await run_in_threadpool(service.store.events, start, job_id=id, limit=1)
        if not more:
            return Response(status_code=204)
    return _Stream.open(service, owner, start, id)


@router.get(
    "/events",
    response_class=Response,
    responses={**_STREAM, **errors(401, 429)},
    summary="Follow all jobs",
)
async def follow_all(
    service: Serving, owner: Owner, after: After | None = None, last_event_id: LastEventId = ""
) -> Response:
    """Events of all your jobs from now on, or after one you know. It does not end."""
    if after is None and not last_event_id:
        after = await run_in_threadpool(service.store.last_event)
    return _Stream.open(service, owner, _start(after or 0, last_event_id), None)


def _start(after: int, last_event_id: str) -> int:
    number = last_event_id.strip()
    if number.isascii() and number.isdecimal() and len(number) < 16:
        return int(number)
    return after


class _Stream:
    """One client that listens."""

    @staticmethod
    def open(service: Service, owner: str, after: int, job_id: str | None) -> Response:
        if len(service.streams) >= _MOST_STREAMS:
            raise Problem(429, "too many clients are listening")
        stream = _Stream(service, owner, after, job_id)
        return StreamingResponse(stream.lines(), media_type="text/event-stream")

    def __init__(self, service: Service, owner: str, after: int, job_id: str | None):
        self.service, self.owner, self.after, self.job_id = service, owner, after, job_id

    async def lines(self) -> AsyncIterator[str]:
        """The stream as text, until the job is over, the client goes, or the server ends."""
        self.service.streams.add(self)
        quiet = 0.0
        try:
            yield "retry: 2000\n\n"
            while not self.service.stopping.is_set():
                active = await run_in_threadpool(self._is_active)
                events = await run_in_threadpool(self._new_events)
                for event in events:
                    self.after = event.number
                    yield event_text(event)
                if not events and not active:
                    return
                quiet = 0.0 if events else quiet + _POLL_SECONDS
                if quiet >= _HEARTBEAT_SECONDS:
                    quiet = 0.0
                    yield ": still here\n\n"
                if not events:
                    await asyncio.sleep(_POLL_SECONDS)
        finally:
            self.service.streams.discard(self)

    def _new_events(self) -> list[JobEvent]:
        return self.service.store.events(self.after, job_id=self.job_id, owner=self.owner)

    def _is_active(self) -> bool:
        """Whether more may come. Asked before the events, so that none is missed at the end."""
        if self.job_id is None:
            return True
        try:
            return self.service.store.get(self.job_id, self.owner).state.is_active
        except UnknownJobError:
            return False


def event_text(event: JobEvent) -> str:
    """One event as it goes over the wire."""
    data: dict[str, Any] = {"job_id": event.job_id, "at": event.at, **event.data}
    if event.kind == "preview":
        data["url"] = f"/api/jobs/{event.job_id}/preview"
    return f"id: {event.number}\nevent: {event.kind}\ndata: {json.dumps(data)}\n\n"
