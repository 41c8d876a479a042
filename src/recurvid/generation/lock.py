"""One process a session folder."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from recurvid.errors import SessionError

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}


@contextmanager
def folder_lock(folder: Path) -> Generator[None]:
    """Hold ``folder/lock``. The system releases it when the process ends, however it ends.

    On file systems that cannot lock (some network mounts) it holds nothing.

    Raises:
        SessionError: another process holds it, or the folder is read-only.
    """
    path = folder / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SessionError(f"the session {folder} cannot be written: {error.strerror}") from None
    try:
        try:
            _try_lock(descriptor)
        except OSError as error:
            if error.errno in _TAKEN:
                raise SessionError(
                    f"the session {folder} is running in another process; wait for it or stop it"
                ) from None
        yield
    finally:
        os.close(descriptor)
