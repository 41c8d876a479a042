"""Files that are either whole or not there: written beside, synced, renamed.

A process killed at any moment (or a machine that loses power) leaves the old file or the new one,
never half of it. What it may leave is a hidden ``.recurvid-*.partial*`` file, which
:func:`sweep` removes.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_PREFIX = ".recurvid-"
_MARK = ".partial"
# Virus scanners and indexers on Windows hold a file open for moments after it was written.
_REPLACE_TRIES = 10


@contextmanager
def atomic_path(path: str | Path) -> Generator[Path]:
    """Yield a temporary path beside ``path``; on success sync it and rename it to ``path``.

    The temporary path has the same suffix, does not exist yet and must be written by the caller.
    It is removed when the body raises, and ``path`` then stands as it was. A symbolic link is
    followed: what it points to is replaced.

    Raises:
        OSError: from writing, or FileNotFoundError when the body wrote nothing.
    """
    target = Path(path)
    if target.is_symlink():
        target = Path(os.path.realpath(target))
    beside = beside_path(target)
    try:
        yield beside
        _sync_file(beside)
        replace(beside, target)
        sync_folder(target.parent)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def beside_path(path: Path) -> Path:
    """A fresh hidden name in the folder of ``path``, with its suffix, that :func:`sweep` knows."""
    suffix = path.suffix if len(path.suffix) <= 16 else ""
    return path.with_name(f"{_PREFIX}{secrets.token_hex(6)}{_MARK}{suffix}")


def write_bytes(path: str | Path, data: bytes | bytearray | memoryview) -> None:
    """Write ``data`` to ``path`` atomically and durably."""
    with atomic_path(path) as beside:
        beside.write_bytes(data)


def write_passing(path: Path, data: bytes) -> bool:
    """Write what is worth nothing after a loss of power: atomically, not synced, or not at all.

    Returns:
        Whether it is there; where not, what stood there stands.
    """
    beside = beside_path(path)
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        return False
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, line ends as given, atomically and durably."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON in UTF-8, keys in the order given.

    Raises:
        TypeError, ValueError: ``value`` is not JSON (NaN and infinity included); ``path`` stands
            as it was.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sweep(folder: str | Path) -> list[Path]:
    """Remove what killed writers left in ``folder`` (not below it); return what was removed.

    Only for folders that no other process is writing into at this moment.
    """
    removed: list[Path] = []
    for path in sorted(Path(folder).glob(f"{_PREFIX}*{_MARK}*")):
        with suppress(OSError):
            path.unlink()
            removed.append(path)
    return removed


def sync_folder(folder: str | Path) -> None:
    """Make the names in ``folder`` durable, where the platform and file system can."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems refuse to sync a directory; the rename is still atomic.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    # Opened for writing because Windows cannot flush a handle that only reads.
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``, which may stand; on Windows wait for whoever looks at it."""
    for attempt in range(_REPLACE_TRIES):
        try:
            os.replace(source, target)
        except PermissionError:
            if sys.platform != "win32" or attempt == _REPLACE_TRIES - 1:
                raise
            time.sleep(0.05 * (attempt + 1))
        else:
            return
