"""Old sessions go by age and size. Finished videos never do."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from recurvid.jobs.states import ACTIVE, JobProgress
from recurvid.jobs.store import JobStore

_DAY = 86_400.0

logger = logging.getLogger(__name__)


def clean(store: JobStore, now: float | None = None) -> list[str]:
    """Remove the sessions (latents and pieces of video) of jobs that are no longer active.

    Those older than ``keep_sessions_days`` go, then the oldest until the rest is below
    ``keep_sessions_bytes``. The video so far of a job without a finished one is kept. A job
    that is resumed later begins anew, and makes the same video.

    Returns:
        The ids of the jobs whose sessions went.
    """
    now = time.time() if now is None else now
    store.bury_folders()
    with store.database.reading() as connection:
        known = {row["id"] for row in connection.execute("SELECT id FROM jobs")}
    store.folders.sweep(known)
    sessions = list(_sessions(store))
    total = sum(size for _, _, size in sessions)
    removed: list[str] = []
    for id, ended, size in sessions:
        old = ended < now - store.limits.keep_sessions_days * _DAY
        if (old or total > store.limits.keep_sessions_bytes) and _remove(store, id):
            total -= size
            removed.append(id)
    if removed:
        logger.info("removed the sessions of %d jobs", len(removed))
    return removed


def _sessions(store: JobStore) -> Iterator[tuple[str, float, int]]:
    """Job, when it ended, bytes of its session; the oldest first."""
    marks = ",".join("?" * len(ACTIVE))
    query = f"SELECT id, finished_at FROM jobs WHERE state NOT IN ({marks}) ORDER BY finished_at"
    with store.database.reading() as connection:
        rows = connection.execute(query, ACTIVE).fetchall()
    for row in rows:
        session = store.folders.of(row["id"]) / "session"
        if session.is_dir():
            yield row["id"], row["finished_at"] or 0.0, _size(session)


def _remove(store: JobStore, id: str) -> bool:
    """Whether the session of a job went; it does not where the job was resumed meanwhile."""
    folder = store.folders.of(id)
    # Nobody can take the job while this is open, and the rename needs no time.
    with store.database.writing(durable=False) as connection:
        marks = ",".join("?" * len(ACTIVE))
        query = f"SELECT 1 FROM jobs WHERE id = ? AND state NOT IN ({marks})"
        if connection.execute(query, (id, *ACTIVE)).fetchone() is None:
            return False
        try:
            if not (folder / "video.mp4").is_file():
                with suppress(FileNotFoundError):
                    os.replace(folder / "session" / "so_far.mp4", folder / "so_far.mp4")
            aside = store.folders.set_aside(folder / "session", id)
        except OSError as error:
            logger.warning("the session of %s stays: %s", id, error.strerror)
            return False
        if not (folder / "video.mp4").is_file():  # resumed, it begins anew
            rest = json.dumps(JobProgress().to_json())
            connection.execute("UPDATE jobs SET progress = ? WHERE id = ?", (rest, id))
    store.folders.discard(aside)
    return True


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total
