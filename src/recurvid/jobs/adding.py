"""A new job is put together beside the others and becomes one of them at once, whole."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from recurvid import durable
from recurvid.errors import LimitError
from recurvid.jobs.database import Database
from recurvid.jobs.failures import disk_is_full
from recurvid.jobs.folders import Folders, new_id
from recurvid.jobs.limits import FULL, Limits
from recurvid.jobs.pictures import keep_picture
from recurvid.jobs.queries import NewJob, insert_job
from recurvid.jobs.rows import change, find_row, job_of
from recurvid.jobs.states import ACTIVE, Job, JobState


class Adding:
    """Adds jobs to a store's database and folders."""

    def __init__(self, database: Database, folders: Folders, limits: Limits):
        self._database, self._folders, self._limits = database, folders, limits

    def add(self, new: NewJob, picture: bytes | Path, end_picture: bytes | Path | None) -> Job:
        """Queue a job; it is on disk when this returns.

        Raises:
            LimitError, InputError: as ``JobStore.add``.
        """
        with self._database.reading() as connection:
            check_room(connection, new.owner, self._limits)  # before the work of decoding
        try:
            return self._put_together(new_id(), new, picture, end_picture)
        except OSError as error:
            if disk_is_full(error):
                raise LimitError(*FULL) from error
            raise

    def _put_together(
        self, id: str, new: NewJob, picture: bytes | Path, end_picture: bytes | Path | None
    ) -> Job:
        folder, limits = self._folders.begin(id), self._limits
        try:
            size = keep_picture(picture, folder / "picture.png", limits, "picture")
            limits.check_request(new.request, size)
            if end_picture is not None:
                keep_picture(end_picture, folder / "end_picture.png", limits, "end_picture")
            return self._insert(id, folder, new, size)
        except BaseException as error:
            self._folders.discard(folder)
            if isinstance(error, Exception):  # then nothing was committed
                self._folders.remove(id)
            raise

    def _insert(self, id: str, folder: Path, new: NewJob, size: tuple[int, int]) -> Job:
        target = self._folders.of(id)
        with self._database.writing() as connection:
            check_room(connection, new.owner, self._limits)
            insert_job(connection, id, new, size, end=(folder / "end_picture.png").is_file())
            change(connection, id, state=JobState.QUEUED)
            # The folder first: a job that can be seen is whole.
            folder.rename(target)
            durable.sync_folder(target.parent)
            try:
                return job_of(find_row(connection, id, None))
            except BaseException:
                target.rename(folder)
                raise


def check_room(connection: sqlite3.Connection, owner: str, limits: Limits) -> None:
    """Raise LimitError when the queue, or an owner's part of it, is full."""
    marks = ",".join("?" * len(ACTIVE))
    row = connection.execute(
        f"SELECT COUNT(*), COALESCE(SUM(owner = ?), 0) FROM jobs WHERE state IN ({marks})",
        (owner, *ACTIVE),
    ).fetchone()
    limits.check_room(int(row[0]), int(row[1]), owner)
