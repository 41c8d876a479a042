"""Rows of the database to jobs and events, and the events that changes leave behind."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

from recurvid.errors import UnknownJobError
from recurvid.generation.request import GenerationRequest
from recurvid.jobs.states import HowToRun, Job, JobEvent, JobPlan, JobProgress, JobState

#: Events of which only the latest of a job is kept: each says all that its forerunners said.
SUPERSEDED = ("progress", "preview", "planned")
#: Of the others, at most so many of a job; the oldest go.
MOST_EVENTS = 1000
#: Events of deleted jobs; a page that was away for longer reloads its list anyway.
MOST_OF_DELETED = 2000


def job_of(row: sqlite3.Row) -> Job:
    """A row of the table ``jobs``."""
    return Job(
        id=row["id"],
        owner=row["owner"],
        state=JobState(row["state"]),
        request=GenerationRequest.from_untrusted(row["request"]),
        how=HowToRun.from_json(json.loads(row["how"])),
        title=row["title"],
        position=row["position"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        progress=JobProgress.from_text(row["progress"]),
        plan=None if row["plan"] is None else JobPlan.from_text(row["plan"]),
        has_end_picture=bool(row["end_picture"]),
        error_code=row["error_code"],
        error=row["error"],
        cancelling=bool(row["cancelling"]),
        attempts=row["attempts"],
        revision=row["revision"],
    )


def find_row(connection: sqlite3.Connection, id: str, owner: str | None) -> sqlite3.Row:
    """The row of a job that ``owner`` may see (None: anybody's).

    Raises:
        UnknownJobError: there is none.
    """
    row = connection.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
    if row is None or owner not in (None, row["owner"]):
        raise UnknownJobError(f"there is no job {str(id)[:60]!r}", "job.gone")
    return row


def change(connection: sqlite3.Connection, id: str, **columns: Any) -> None:
    """Set columns of a job and, where a user sees it, leave an event of kind "state"."""
    names = ", ".join(f"{name} = ?" for name in columns)
    connection.execute(
        f"UPDATE jobs SET {names}, revision = revision + 1 WHERE id = ?",
        (*columns.values(), id),
    )
    row = find_row(connection, id, None)
    seen = ("state", "position", "error_code", "error", "revision", "title")
    data = {name: row[name] for name in seen} | {"cancelling": bool(row["cancelling"])}
    record(connection, row["id"], row["owner"], "state", data)


def record(
    connection: sqlite3.Connection, id: str, owner: str, kind: str, data: dict[str, Any]
) -> None:
    """Append an event, and drop those of the job that nobody needs any more."""
    if kind in SUPERSEDED:
        connection.execute("DELETE FROM events WHERE job_id = ? AND kind = ?", (id, kind))
    cursor = connection.execute(
        "INSERT INTO events (job_id, owner, kind, data, at) VALUES (?, ?, ?, ?, ?)",
        (id, owner, kind, json.dumps(data), time.time()),
    )
    number = cursor.lastrowid or 0
    if number % 50 == 0:
        connection.execute(
            "DELETE FROM events WHERE job_id = ? AND number NOT IN "
            "(SELECT number FROM events WHERE job_id = ? ORDER BY number DESC LIMIT ?)",
            (id, id, MOST_EVENTS),
        )


def bury(connection: sqlite3.Connection, row: sqlite3.Row) -> None:
    """Take a job out of the tables; its folder is removed by whoever finds the grave."""
    id = row["id"]
    connection.execute("DELETE FROM jobs WHERE id = ?", (id,))
    connection.execute("DELETE FROM events WHERE job_id = ?", (id,))
    connection.execute("INSERT OR REPLACE INTO graves VALUES (?)", (id,))
    record(connection, id, row["owner"], "state", {"state": "deleted"})
    connection.execute(
        "DELETE FROM events WHERE number IN (SELECT number FROM events WHERE job_id NOT IN "
        "(SELECT id FROM jobs) ORDER BY number DESC LIMIT -1 OFFSET ?)",
        (MOST_OF_DELETED,),
    )


def event_of(row: sqlite3.Row) -> JobEvent:
    """A row of the table ``events``."""
    return JobEvent(row["number"], row["job_id"], row["kind"], json.loads(row["data"]), row["at"])
