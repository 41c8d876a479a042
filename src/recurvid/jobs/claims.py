"""Claims: how workers take jobs and write to them. The other half of the store.

A claim carries a token. Every write names it, and a worker whose job was given to another since
(because it was taken for dead) changes nothing any more.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from recurvid.errors import StaleClaimError
from recurvid.jobs.endings import end, leave, take_back
from recurvid.jobs.notes import forget, say
from recurvid.jobs.rows import change, job_of, record
from recurvid.jobs.slots import held
from recurvid.jobs.states import WAITING, Job, JobPlan, JobProgress, JobState
from recurvid.jobs.store import JobStore

DISK_FULL = "disk_full"
_LONGEST_HOLD = 60.0


@dataclass(frozen=True)
class Claim:
    """A job that a worker has taken.

    Attributes:
        token: without which nothing is written.
    """

    job: Job
    token: str

    @property
    def id(self) -> str:
        """Of the job."""
        return self.job.id


class Claims:
    """The worker's side of a store."""

    def __init__(self, store: JobStore):
        self.store = store
        self._database = store.database

    def devices_wanted(self) -> list[str]:
        """Devices that waiting jobs name."""
        query = f"SELECT DISTINCT device FROM jobs WHERE state IN ({_marks(WAITING)})"
        with self._database.reading() as connection:
            return [row["device"] for row in connection.execute(query, WAITING)]

    def take(
        self,
        slot: str,
        device: str = "auto",
        served: Iterable[str] = (),
        *,
        mine: Iterable[str] = (),
        others: Iterable[str] = (),
    ) -> Claim | None:
        """The next job for a worker, if there is one and there is room on the disk.

        The worker must hold the slot's lock for as long as it has the claim.

        Args:
            device: of the worker. It takes jobs that leave the device open or name this one.
            served: devices of all workers; a job for none of them is taken by anyone, and fails
                with the reason that there is no such device here.
            mine: other names of the worker's device.
            others: devices that are another worker's, whoever started it.
        """
        if self.store.short_of_disk():
            return None
        where, values = _fits({device, *mine}, {device, *served}, sorted({*others}))
        query = (
            f"SELECT * FROM jobs WHERE state IN (?, ?) AND not_before <= ? AND {where} "
            "ORDER BY state = ? DESC, position LIMIT 1"
        )
        arguments = (JobState.INTERRUPTED, JobState.QUEUED, time.time(), *values)
        with self._database.reading() as connection:
            if connection.execute(query, (*arguments, JobState.INTERRUPTED)).fetchone() is None:
                return None
        with self._database.writing() as connection:
            row = connection.execute(query, (*arguments, JobState.INTERRUPTED)).fetchone()
            if row is None:
                return None
            token = secrets.token_hex(16)
            change(
                connection,
                row["id"],
                state=JobState.RUNNING,
                slot=slot,
                token=token,
                attempts=row["attempts"] + 1,
                restarts=row["restarts"] + 1,
                started_at=row["started_at"] or time.time(),
                finished_at=None,
                cancelling=0,
                error_code=None,
                error=None,
            )
            return Claim(job_of(_own(connection, row["id"], token)), token)

    def planned(self, claim: Claim, plan: JobPlan) -> None:
        """Keep what will be made."""
        with self._database.writing(durable=False) as connection:
            row = _own(connection, claim.id, claim.token)
            values = plan.to_json()
            connection.execute(
                "UPDATE jobs SET plan = ?, revision = revision + 1 WHERE id = ?",
                (json.dumps(values), claim.id),
            )
            record(connection, claim.id, row["owner"], "planned", values)

    def progress(
        self, claim: Claim, progress: JobProgress, kind: str = "progress", **data: Any
    ) -> bool:
        """Keep how far a job is, and leave an event.

        Args:
            kind: "progress", or "preview" or "section" with ``data`` of their own beside it.

        Returns:
            Whether the job should stop.
        """
        finished = kind == "section"
        with self._database.writing(durable=False) as connection:
            row = _own(connection, claim.id, claim.token)
            reset = ", crashes = 0, restarts = 0, holds = 0" if finished else ""
            connection.execute(
                f"UPDATE jobs SET progress = ?, revision = revision + 1{reset} WHERE id = ?",
                (json.dumps(progress.to_json()), claim.id),
            )
            record(connection, claim.id, row["owner"], "progress", progress.to_json())
            if kind != "progress":
                record(connection, claim.id, row["owner"], kind, data)
            return bool(row["cancelling"])

    def done(self, claim: Claim, progress: JobProgress) -> None:
        """The video is there. Asked to stop meanwhile, it is there all the same."""
        with self._database.writing() as connection:
            row = _own(connection, claim.id, claim.token)
            text = json.dumps(progress.to_json())
            connection.execute("UPDATE jobs SET progress = ? WHERE id = ?", (text, claim.id))
            record(connection, claim.id, row["owner"], "progress", progress.to_json())
            end(connection, claim.id, JobState.DONE)
            record(connection, claim.id, row["owner"], "finished", {"frames": progress.frames})

    def failed(self, claim: Claim, code: str, text: str) -> None:
        """It cannot be done; a user who asked to stop gets just that."""
        with self._database.writing() as connection:
            row = _own(connection, claim.id, claim.token)
            if row["cancelling"]:
                end(connection, claim.id, JobState.CANCELLED)
            else:
                end(connection, claim.id, JobState.FAILED, error_code=code, error=text)

    def stopped(self, claim: Claim) -> None:
        """The worker leaves: cancelled where its user asked for it, else it goes on later."""
        with self._database.writing() as connection:
            row = _own(connection, claim.id, claim.token)
            if row["cancelling"]:
                end(connection, claim.id, JobState.CANCELLED)
            else:
                leave(connection, claim.id, restarts=max(0, row["restarts"] - 1))

    def held_back(self, claim: Claim) -> None:
        """The disk is full: it waits, longer each time, and goes on when there is room."""
        with self._database.writing() as connection:
            row = _own(connection, claim.id, claim.token)
            if row["cancelling"]:
                end(connection, claim.id, JobState.CANCELLED)
                return
            leave(
                connection,
                claim.id,
                restarts=max(0, row["restarts"] - 1),
                holds=row["holds"] + 1,
                not_before=time.time() + min(_LONGEST_HOLD, 2.0 ** min(row["holds"] + 1, 10)),
                error_code=DISK_FULL,
                error="the disk is full; the job goes on by itself when there is room",
            )

    def recover(self, slot: str, crash: str | None = None) -> list[str]:
        """Take back the jobs of a dead worker. Only while its slot's lock is held.

        Args:
            crash: how its process ended by a fault of its own; None where it was stopped, or
                nobody knows.

        Returns:
            The ids of its jobs.
        """
        with self._database.reading() as connection:
            if not _running_in(connection, slot):
                return []
        with self._database.writing() as connection:
            rows = _running_in(connection, slot)
            for row in rows:
                take_back(connection, row, crash, self.store.limits)
        return [row["id"] for row in rows]

    def recover_all(self, others: Iterable[str] = ()) -> list[str]:
        """Take back the jobs of every worker that is dead.

        Args:
            others: slots that somebody else looks after.
        """
        kept = set(others)
        with self._database.reading() as connection:
            query = "SELECT DISTINCT slot FROM jobs WHERE state = ?"
            slots = [row["slot"] for row in connection.execute(query, (JobState.RUNNING,))]
        found: list[str] = []
        for slot in slots:
            if slot in kept:
                continue
            with held(self.store.home, slot) as ours:
                if ours:
                    found += self.recover(slot)
        return found

    def note_pause(self, slot: str, text: str | None, *, replace: bool = True) -> None:
        """Say in the queue's state why a slot takes nothing (None: nothing is in the way).

        Args:
            replace: what the slot says already.
        """
        say(self._database, slot, text, replace=replace)

    def forget_notes(self, others: Iterable[str] = ()) -> None:
        """Drop what slots said that nobody looks after any more.

        Args:
            others: slots that somebody looks after.
        """
        forget(self._database, self.store.home, others)


def _fits(mine: set[str], served: set[str], others: Sequence[str]) -> tuple[str, list[str]]:
    """SQL for the jobs that a worker whose device has the names ``mine`` may take."""
    not_theirs = f"device NOT IN ({_marks(others)})"
    if "auto" in served:
        return not_theirs, [*others]
    names = sorted({"auto", *mine, *(name.split(":")[0] for name in mine)})
    known = sorted({"auto", *mine, *served, *(name.split(":")[0] for name in served)})
    return (
        f"(device IN ({_marks(names)}) OR device NOT IN ({_marks(known)})) AND {not_theirs}",
        [*names, *known, *others],
    )


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _own(connection: sqlite3.Connection, id: str, token: str) -> sqlite3.Row:
    row = connection.execute(
        "SELECT * FROM jobs WHERE id = ? AND token = ? AND state = ?",
        (id, token, JobState.RUNNING),
    ).fetchone()
    if row is None:
        raise StaleClaimError(f"the job {id} belongs to another worker by now")
    return row


def _running_in(connection: sqlite3.Connection, slot: str) -> list[sqlite3.Row]:
    query = "SELECT * FROM jobs WHERE state = ? AND slot = ?"
    return connection.execute(query, (JobState.RUNNING, slot)).fetchall()
