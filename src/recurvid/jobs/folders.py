"""Where a job's files lie. Names are ours: nothing that a user typed becomes part of a path.

::

    home/jobs.sqlite3          the queue
    home/jobs/video_<32 hex>/
        picture.png            the start picture, decoded and written anew
        end_picture.png        the end picture, where one was given
        session/               a session folder, as `recurvid generate` makes it
        video.mp4              the finished video, with its request inside
        so_far.mp4             the video so far, once the session was cleaned away
        preview.webp           the section in the making, a few steps old
        thumbnail.webp, sheet.jpg
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from recurvid.errors import UnknownJobError

_ID = re.compile(r"video_[0-9a-f]{32}", re.ASCII)
_BEGUN = re.compile(r"\.(new|gone)-video_[0-9a-f]{32}(-[0-9a-f]{8})?", re.ASCII)
_ONLY_PICTURES = {"picture.png", "end_picture.png"}
_HOUR = 3600.0


def new_id() -> str:
    """A name that nobody can guess."""
    return f"video_{secrets.token_hex(16)}"


class Folders:
    """The folders of jobs below ``home/jobs``, for their user's eyes only."""

    def __init__(self, home: Path):
        self.root = home / "jobs"
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.mkdir(exist_ok=True, mode=0o700)
        self.root.chmod(0o700)

    def of(self, id: str) -> Path:
        """The folder of a job.

        Raises:
            UnknownJobError: that is no job's name.
        """
        if not _ID.fullmatch(id):
            raise UnknownJobError(f"there is no job {id[:60]!r}", "job.gone")
        return self.root / id

    def begin(self, id: str) -> Path:
        """A folder beside, in which a new job is put together."""
        folder = self.root / f".new-{id}"
        folder.mkdir(mode=0o700)
        return folder

    def remove(self, id: str) -> None:
        """Remove a job's folder with all that is in it; a link in its place is only unlinked."""
        self.discard(self.of(id))

    def set_aside(self, path: Path, id: str) -> Path:
        """Rename something of a job, at once, to what :meth:`discard` or a sweep removes later."""
        aside = self.root / f".gone-{id}-{secrets.token_hex(4)}"
        path.rename(aside)
        return aside

    def discard(self, folder: Path) -> None:
        """Remove a folder."""
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self, known: set[str]) -> list[Path]:
        """Remove what killed processes left: half-made jobs older than an hour, things set aside.

        A folder that no job knows of stays if there is anything but start pictures in it: it
        may hold a finished video.

        Args:
            known: ids of all jobs, read before this is called.
        """
        removed: list[Path] = []
        for path in self._old():
            begun = _BEGUN.fullmatch(path.name) is not None
            stray = _ID.fullmatch(path.name) is not None and path.name not in known
            if begun or (stray and {file.name for file in path.iterdir()} <= _ONLY_PICTURES):
                self.discard(path)
                removed.append(path)
        return removed

    def _old(self) -> Iterator[Path]:
        for path in sorted(self.root.iterdir()):
            if path.is_dir() and not path.is_symlink():
                aside = path.name.startswith(".gone-")
                if aside or path.stat().st_mtime < time.time() - _HOUR:
                    yield path
