"""What a user changes of a job: its request before it begins, whether it goes on."""

from __future__ import annotations

import json
import sqlite3
import time

from recurvid.errors import JobStateError
from recurvid.generation.request import GenerationRequest
from recurvid.jobs.adding import check_room
from recurvid.jobs.limits import Limits
from recurvid.jobs.queries import clean_title, requeue
from recurvid.jobs.rows import change
from recurvid.jobs.states import HowToRun, JobState


def edit_job(
    connection: sqlite3.Connection,
    row: sqlite3.Row,
    request: GenerationRequest,
    how: HowToRun | None,
    title: str | None,
    limits: Limits,
) -> None:
    """See ``JobStore.edit``."""
    if row["state"] != JobState.QUEUED or row["attempts"]:
        raise JobStateError("this job has begun; duplicate it and edit the copy", "job.begun")
    limits.check_request(request, (row["picture_height"], row["picture_width"]))
    how = how or HowToRun.from_json(json.loads(row["how"]))
    change(
        connection,
        row["id"],
        request=json.dumps(request.to_json()),
        how=json.dumps(how.to_json()),
        device=how.device,
        title=row["title"] if title is None else clean_title(title, request.prompt),
    )


def cancel_job(connection: sqlite3.Connection, row: sqlite3.Row) -> None:
    """See ``JobStore.cancel``."""
    state = JobState(row["state"])
    if state.waits:
        ended = {"state": JobState.CANCELLED, "finished_at": time.time()}
        change(connection, row["id"], **ended, error_code=None, error=None)
    elif state is JobState.RUNNING:
        if not row["cancelling"]:
            change(connection, row["id"], cancelling=1)
    elif state is not JobState.CANCELLED:
        raise JobStateError(f"this job is {state.value}; there is nothing to cancel", "job.over")


def resume_job(connection: sqlite3.Connection, row: sqlite3.Row, limits: Limits) -> None:
    """See ``JobStore.resume``."""
    state = JobState(row["state"])
    if state is JobState.DONE:
        raise JobStateError("this job is done; duplicate it to make the video anew", "job.done")
    if state is JobState.INTERRUPTED:
        change(connection, row["id"], not_before=0)
    elif state is JobState.RUNNING:
        if row["cancelling"]:
            change(connection, row["id"], cancelling=0)
    elif state is not JobState.QUEUED:
        check_room(connection, row["owner"], limits)
        requeue(connection, row["id"])
