"""JobStore: the queue as its users see it, kept in SQLite and in one folder a job."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from recurvid.checkpoints.locate import locate
from recurvid.errors import JobStateError, Line
from recurvid.generation.defaults import spec_of
from recurvid.generation.request import GenerationRequest
from recurvid.jobs.adding import Adding
from recurvid.jobs.changes import cancel_job, edit_job, resume_job
from recurvid.jobs.database import Database
from recurvid.jobs.disk import Disk, DiskUsage
from recurvid.jobs.folders import Folders
from recurvid.jobs.limits import Limits
from recurvid.jobs.notes import queue_state
from recurvid.jobs.queries import NewJob, rearrange, select_events, select_jobs, waiting
from recurvid.jobs.rows import bury, find_row, job_of
from recurvid.jobs.states import HowToRun, Job, JobEvent, JobState, QueueState


class JobStore:
    """Jobs of one home folder. Any number of threads and processes may hold one.

    ``owner=None`` speaks for the house and sees everything; any other owner sees and changes
    their own jobs only, and others' do not exist.

    Args:
        home: ``settings().home``.
        limits: what is taken.
        disk_usage: replaced in tests.

    Raises:
        JobError: the queue was written by a later version, or cannot be opened.
    """

    def __init__(
        self,
        home: Path,
        limits: Limits | None = None,
        *,
        disk_usage: Callable[[Path], DiskUsage] = shutil.disk_usage,
    ):
        self.home = home
        self.limits = limits or Limits()
        self.folders = Folders(home)
        self.database = Database(home / "jobs.sqlite3")
        self.disk = Disk(home, self.limits, disk_usage)
        self._adding = Adding(self.database, self.folders, self.limits)

    def close(self) -> None:
        """Close the idle connections."""
        self.database.close()

    # What users ask for

    def add(
        self,
        request: GenerationRequest,
        picture: bytes | Path,
        *,
        end_picture: bytes | Path | None = None,
        owner: str = "",
        how: HowToRun | None = None,
        title: str = "",
    ) -> Job:
        """Queue a video. It is on disk when this returns.

        Args:
            picture: the bytes of an image file, or where they lie; a copy is kept.
            title: for display; a file name or the like.

        Raises:
            LimitError: more than is taken here: bytes, pixels, seconds, jobs, disk.
            InputError: a picture or request that cannot be used.
            CheckpointError: the model is not on this machine.
        """
        new = NewJob(request, how or HowToRun(), title, owner)
        if not spec_of(request).bundled:
            locate(request.model)  # says now which files are missing
        self.disk.check()
        return self._adding.add(new, picture, end_picture)

    def duplicate(self, id: str, owner: str | None = None) -> Job:
        """Queue the same request with the same pictures once more.

        Raises:
            UnknownJobError, LimitError.
        """
        job, source = self.get(id, owner), self.folders.of(id)
        end = source / "end_picture.png" if job.has_end_picture else None
        return self.add(
            job.request,
            source / "picture.png",
            end_picture=end,
            owner=job.owner,
            how=job.how,
            title=job.title,
        )

    def edit(
        self,
        id: str,
        request: GenerationRequest,
        how: HowToRun | None = None,
        *,
        title: str | None = None,
        owner: str | None = None,
    ) -> Job:
        """Change what a queued job asks for.

        Raises:
            JobStateError: it has begun; what it has made belongs to its first request.
            UnknownJobError, LimitError, InputError.
        """
        with self.database.writing() as connection:
            edit_job(connection, find_row(connection, id, owner), request, how, title, self.limits)
            return job_of(find_row(connection, id, None))

    def cancel(self, id: str, owner: str | None = None) -> Job:
        """Stop a job and keep what it has made. A running one stops after its step.

        Cancelling what is cancelled already changes nothing.

        Raises:
            JobStateError: it is done or has failed.
            UnknownJobError.
        """
        with self.database.writing() as connection:
            cancel_job(connection, find_row(connection, id, owner))
            return job_of(find_row(connection, id, None))

    def resume(self, id: str, owner: str | None = None) -> Job:
        """Queue a cancelled or failed job again; it goes on from where it stopped.

        On a waiting or running job it takes a cancellation back, or changes nothing.

        Raises:
            JobStateError: it is done.
            UnknownJobError, LimitError.
        """
        with self.database.writing() as connection:
            resume_job(connection, find_row(connection, id, owner), self.limits)
            return job_of(find_row(connection, id, None))

    def delete(self, id: str, owner: str | None = None) -> None:
        """Remove a job with everything that it has made.

        Raises:
            JobStateError: it is running; cancel it first.
            UnknownJobError.
        """
        with self.database.writing() as connection:
            row = find_row(connection, id, owner)
            if row["state"] == JobState.RUNNING:
                raise JobStateError("this job is running; cancel it first", "job.running")
            bury(connection, row)
        self.bury_folders()

    def move(self, id: str, before: str | None, owner: str | None = None) -> Job:
        """Put a waiting job in front of another waiting one, or (None) last.

        With an owner, among that owner's jobs: nobody else's turn comes later for it.

        Raises:
            JobStateError: one of them does not wait.
            UnknownJobError.
        """
        with self.database.writing() as connection:
            find_row(connection, id, owner)
            if before is not None:
                find_row(connection, before, owner)
            rearrange(connection, id, before, owner)
            return job_of(find_row(connection, id, None))

    # What users see

    def get(self, id: str, owner: str | None = None) -> Job:
        """One job.

        Raises:
            UnknownJobError: there is none, or it is another owner's.
        """
        with self.database.reading() as connection:
            return job_of(find_row(connection, id, owner))

    def list(
        self,
        *,
        owner: str | None = None,
        states: Iterable[JobState] | None = None,
        limit: int = 100,
        after: str | None = None,
        newest_first: bool = True,
    ) -> list[Job]:
        """Jobs by when they were added.

        Args:
            after: the last job of the page before.

        Raises:
            UnknownJobError: there is no job ``after``.
        """
        with self.database.reading() as connection:
            wanted = None if states is None else list(states)
            return select_jobs(
                connection, owner, wanted, limit, after=after, newest_first=newest_first
            )

    def queue(self, owner: str | None = None) -> list[Job]:
        """Waiting jobs in the order in which they will be taken."""
        with self.database.reading() as connection:
            rows = waiting(connection)
            return [job_of(row) for row in rows if owner in (None, row["owner"])]

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        with self.database.reading() as connection:
            rows = connection.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state")
            found = {JobState(row[0]): int(row[1]) for row in rows}
        return {state: found.get(state, 0) for state in JobState}

    def events(
        self,
        after: int = 0,
        *,
        job_id: str | None = None,
        owner: str | None = None,
        limit: int = 500,
    ) -> list[JobEvent]:
        """What happened since the event ``after``, oldest first.

        Progress that newer progress has overtaken is left out, so whoever was away gets the
        present state and not the film of it.
        """
        with self.database.reading() as connection:
            return select_events(connection, after, limit, job_id, owner)

    def last_event(self) -> int:
        """Number of the newest event, 0 before there was one."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
            found = row.fetchone()
            return 0 if found is None else int(found[0])

    def queue_state(self) -> QueueState:
        """Whether jobs are taken now, and if not why."""
        if (short := self.short_of_disk()) is not None:
            return QueueState(True, short)
        return queue_state(self.database, self.home)

    def short_of_disk(self) -> Line | None:
        """Why no job is begun: less is free than is kept free. None when there is room."""
        return self.disk.short()

    def out_of_disk(self) -> bool:
        """Whether even a running job should stop: most of what is kept free is used up."""
        return self.disk.is_out()

    # Files

    def picture(self, id: str) -> Path:
        """The start picture, a PNG."""
        return self.folders.of(id) / "picture.png"

    def end_picture(self, id: str) -> Path | None:
        """The end picture, a PNG."""
        return self._file(id, "end_picture.png")

    def video(self, id: str) -> Path | None:
        """The finished video, an mp4; None before the job is done."""
        return self._file(id, "video.mp4") if self.get(id).state is JobState.DONE else None

    def so_far(self, id: str) -> Path | None:
        """The video so far, a playable mp4 that grows with each section; None before the first."""
        return self._file(id, "session/so_far.mp4", "so_far.mp4")

    def preview(self, id: str) -> Path | None:
        """The section in the making, an animated WEBP, replaced every few steps."""
        return self._file(id, "preview.webp")

    def thumbnail(self, id: str) -> Path | None:
        """The first frame of a finished video, a small WEBP."""
        return self._file(id, "thumbnail.webp")

    def sheet(self, id: str) -> Path | None:
        """Frames of a finished video side by side, a JPEG."""
        return self._file(id, "sheet.jpg")

    def bury_folders(self) -> None:
        """Remove the folders of deleted jobs; what a kill left over is removed the next time."""
        with self.database.reading() as connection:
            graves = [row["id"] for row in connection.execute("SELECT id FROM graves")]
        for id in graves:
            with suppress(OSError):
                self.folders.remove(id)
        if graves:
            with self.database.writing(durable=False) as connection:
                connection.executemany("DELETE FROM graves WHERE id = ?", [(id,) for id in graves])

    def _file(self, id: str, *names: str) -> Path | None:
        folder = self.folders.of(id)
        found = (folder / name for name in names)
        return next((path for path in found if path.is_file()), None)
