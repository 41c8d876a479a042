"""What an exception in a job means: wait for room, or fail with a reason that tells no secrets."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import recurvid
from recurvid.errors import (
    CheckpointError,
    ComponentError,
    InputError,
    LimitError,
    NumericsError,
    OutputError,
    RecurVidError,
    SessionError,
)

_CODES: tuple[tuple[type[Exception], str], ...] = (
    (OutputError, "output_error"),
    (InputError, "invalid_request"),
    (CheckpointError, "model_unavailable"),
    (ComponentError, "device_unavailable"),
    (SessionError, "session_error"),
    (NumericsError, "numerics_error"),
)
_FULL = {errno.ENOSPC, errno.EDQUOT}
# A path: a slash (or a drive) at the start of a word, and all that may belong to it.
_PATH = re.compile(r"""(?<![\w.:/\\<])(?:~|[A-Za-z]:)?[/\\][^\s'"():;,\]]+""")
_FORCE = re.compile(r"\s*\(--force goes on all the same\)")
_RESUME = re.compile(r";[^;]*recurvid resume[^;]*$")
_LONGEST = 500


@dataclass(frozen=True)
class Failure:
    """Why a job failed.

    Attributes:
        code: a word for programs.
        text: one line for its user, without paths of this machine.
        known: whether it is one that RecurVid raises on purpose; after any other the process
            is not to be trusted.
    """

    code: str
    text: str
    known: bool


def disk_is_full(error: BaseException) -> bool:
    """Whether a full disk (or quota) is behind an exception, however it was wrapped."""
    for link in _chain(error):
        if isinstance(link, sqlite3.OperationalError) and "full" in str(link):
            return True
        if getattr(link, "errno", None) in _FULL:
            return True
    return False


def failure_of(error: Exception, home: Path) -> Failure:
    """What a user is told about an exception."""
    if isinstance(error, LimitError):
        return Failure(error.code, public(str(error), home), known=True)
    if isinstance(error, RecurVidError):
        code = next((code for kind, code in _CODES if isinstance(error, kind)), "error")
        return Failure(code, public(str(error), home), known=True)
    # By name: torch is not imported here.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        text = "there was not enough memory; make the video smaller or set a memory budget"
        return Failure("out_of_memory", text, known=False)
    text = f"an error that nobody foresaw ({type(error).__name__}); the server's log says more"
    return Failure("internal_error", text, known=False)


def public(text: str, home: Path) -> str:
    """One line of ``text`` with the paths of this machine cut down to their last names."""
    line = " ".join(text.split())
    line = _RESUME.sub("", _FORCE.sub("; duplicate the job to begin anew", line))
    known = [home, Path(recurvid.__file__).parent, Path.home(), Path(tempfile.gettempdir())]
    for folder in sorted({str(path.absolute()) for path in known}, key=len, reverse=True):
        if len(folder) > 1:
            # Whole, because a folder's name may hold spaces, where a pattern would end.
            line = line.replace(folder + os.sep, "/").replace(folder, "/")
    return _PATH.sub(lambda found: _last_name(found[0]), line)[:_LONGEST]


def _last_name(path: str) -> str:
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return "the job's folder" if re.fullmatch(r"session|video_[0-9a-f]{32}|", name) else name


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
