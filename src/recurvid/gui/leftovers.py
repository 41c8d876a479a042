"""Uploads that nobody asks for any more: of a page that was killed, or broken off on their way."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from recurvid.errors import SessionError
from recurvid.generation.lock import folder_lock

_PREFIX = "recurvid-page-"
_PROCESS, _UPLOADS = "process", "uploads"
_HOUR = 3600.0
_LOOK_SECONDS = 600.0


@contextmanager
def uploads_folder(parent: Path | None = None) -> Generator[Path]:
    """A folder for the uploads of this process alone, gone with the context.

    Those that killed processes left are cleared first.

    Args:
        parent: where it is made; by default where the system keeps what is temporary.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    clear_abandoned(place)
    own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    uploads = own / _UPLOADS
    try:
        # Others look at the lock only after the process is named: by then it is held.
        with folder_lock(own):
            (own / _PROCESS).write_text(f"{os.getpid()} {_started(os.getpid())}", "ascii")
            uploads.mkdir()
            with _swept(uploads):
                yield uploads
    finally:
        shutil.rmtree(own, ignore_errors=True)


def clear_abandoned(place: Path) -> list[Path]:
    """Remove folders that this user's pages made and that no process holds any more.

    Returns:
        What went. What is in doubt (a link, another user's, one without its mark) stays.
    """
    removed: list[Path] = []
    for folder in sorted(place.glob(f"{_PREFIX}*")):
        with suppress(OSError, SessionError, ValueError):
            if not _is_ours(folder) or _runs((folder / _PROCESS).read_text("ascii")):
                continue
            with folder_lock(folder):  # held: it is alive after all, in another name space
                shutil.rmtree(folder / _UPLOADS, ignore_errors=True)
            # The mark goes last, so that what cannot be removed now is found again.
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder of this user with a page's mark; links are nobody's."""
    found, mark = folder.lstat(), (folder / _PROCESS).lstat()
    owner = os.getuid() if sys.platform != "win32" else found.st_uid
    return stat.S_ISDIR(found.st_mode) and stat.S_ISREG(mark.st_mode) and found.st_uid == owner


def _runs(mark: str) -> bool:
    """Whether the process of a mark runs; another one with its number is told by its start."""
    number, _, started = mark.partition(" ")
    if sys.platform == "win32":  # there the lock says it
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return started == _started(int(number))


def _started(process: int) -> str:
    """When a process began, in a form to compare; "" where the system does not tell."""
    try:
        told = Path(f"/proc/{process}/stat").read_text("ascii", "replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
    # The name of the program stands in brackets, and may hold anything.
    return f"{boot}-{told.rpartition(')')[2].split()[19]}"


def sweep(uploads: Path, now: float | None = None) -> list[Path]:
    """Remove files that lie beside the folders of finished uploads and were left an hour ago.

    Args:
        uploads: Gradio's folder; a whole upload is moved into a folder named by its content.

    Returns:
        What went.
    """
    before = (time.time() if now is None else now) - _HOUR
    removed: list[Path] = []
    for path in uploads.iterdir():
        with suppress(OSError):
            if path.is_file() and path.stat().st_mtime < before:
                path.unlink()
                removed.append(path)
    return removed


@contextmanager
def _swept(uploads: Path) -> Generator[None]:
    """Sweep now and then while the context is open."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(_LOOK_SECONDS):
            with suppress(OSError):
                sweep(uploads)

    thread = threading.Thread(target=work, name="leftovers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
