"""What the store asks its database: jobs in, jobs and events out."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Sequence
from typing import NamedTuple

from recurvid.errors import JobStateError
from recurvid.generation.request import GenerationRequest
from recurvid.jobs.rows import change, event_of, find_row, job_of
from recurvid.jobs.states import WAITING, HowToRun, Job, JobEvent, JobProgress, JobState

_LONGEST_TITLE = 120


class NewJob(NamedTuple):
    """A job about to be added."""

    request: GenerationRequest
    how: HowToRun
    title: str
    owner: str


def insert_job(
    connection: sqlite3.Connection, id: str, new: NewJob, picture: tuple[int, int], *, end: bool
) -> None:
    """Put a job last in the queue.

    Args:
        picture: (height, width) of its start picture.
        end: whether it has an end picture.
    """
    values = {
        "id": id,
        "owner": new.owner,
        "state": JobState.QUEUED,
        "request": json.dumps(new.request.to_json()),
        "how": json.dumps(new.how.to_json()),
        "device": new.how.device,
        "title": clean_title(new.title, new.request.prompt),
        "position": _last_place(connection),
        "created_at": time.time(),
        "picture_height": picture[0],
        "picture_width": picture[1],
        "end_picture": int(end),
        "progress": json.dumps(JobProgress().to_json()),
    }
    marks = ",".join("?" * len(values))
    connection.execute(
        f"INSERT INTO jobs ({','.join(values)}) VALUES ({marks})", tuple(values.values())
    )


def requeue(connection: sqlite3.Connection, id: str) -> None:
    """Put a job that had ended last in the queue, with nothing held against it."""
    change(
        connection,
        id,
        state=JobState.QUEUED,
        position=_last_place(connection),
        finished_at=None,
        error_code=None,
        error=None,
        cancelling=0,
        crashes=0,
        restarts=0,
        holds=0,
        not_before=0,
    )


def waiting(connection: sqlite3.Connection) -> list[sqlite3.Row]:
    """Waiting jobs as they will be taken: what was interrupted goes on first."""
    return connection.execute(
        "SELECT * FROM jobs WHERE state IN (?, ?) ORDER BY state = ? DESC, position",
        (*WAITING, JobState.INTERRUPTED),
    ).fetchall()


def rearrange(
    connection: sqlite3.Connection, id: str, before: str | None, owner: str | None
) -> None:
    """Put a waiting job in front of another (None: last), within the places that are the owner's.

    Raises:
        JobStateError: one of them does not wait.
    """
    rows = [row for row in waiting(connection) if owner in (None, row["owner"])]
    ids = [row["id"] for row in rows]
    if id not in ids or (before is not None and before not in ids):
        raise JobStateError("only jobs that wait can change places", "job.not_waiting")
    if before == id:
        return
    places = sorted(row["position"] for row in rows)
    ids.remove(id)
    ids.insert(len(ids) if before is None else ids.index(before), id)
    old = {row["id"]: row["position"] for row in rows}
    for other, place in zip(ids, places, strict=True):
        if old[other] != place:
            change(connection, other, position=place)


def select_jobs(
    connection: sqlite3.Connection,
    owner: str | None,
    states: Sequence[JobState] | None,
    limit: int,
    *,
    after: str | None,
    newest_first: bool,
) -> list[Job]:
    """See JobStore.list."""
    where, values = ["1"], list[object]()
    if owner is not None:
        where.append("owner = ?")
        values.append(owner)
    if states is not None:
        where.append(f"state IN ({','.join('?' * len(states))})")
        values += states
    order, sign = ("DESC", "<") if newest_first else ("ASC", ">")
    if after is not None:
        where.append(f"serial {sign} ?")
        values.append(find_row(connection, after, owner)["serial"])
    rows = connection.execute(
        f"SELECT * FROM jobs WHERE {' AND '.join(where)} ORDER BY serial {order} LIMIT ?",
        (*values, max(0, limit)),
    )
    return [job_of(row) for row in rows]


def select_events(
    connection: sqlite3.Connection, after: int, limit: int, job_id: str | None, owner: str | None
) -> list[JobEvent]:
    """See JobStore.events."""
    where, values = ["number > ?"], list[object]([after])
    for name, value in (("job_id", job_id), ("owner", owner)):
        if value is not None:
            where.append(f"{name} = ?")
            values.append(value)
    rows = connection.execute(
        f"SELECT * FROM events WHERE {' AND '.join(where)} ORDER BY number LIMIT ?",
        (*values, max(0, limit)),
    )
    return [event_of(row) for row in rows]


def clean_title(title: str, prompt: str = "") -> str:
    """A short line of printable text, from a file name or whatever else; the prompt without one."""
    name = re.split(r"[/\\]", title)[-1] if title else prompt
    line = "".join(c if c.isprintable() else " " for c in name.encode("utf-8", "replace").decode())
    return " ".join(line.split())[:_LONGEST_TITLE].strip() or "video"


def _last_place(connection: sqlite3.Connection) -> float:
    row = connection.execute("SELECT COALESCE(MAX(position), 0) FROM jobs").fetchone()
    return float(row[0]) + 1.0
