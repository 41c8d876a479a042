"""The folder of the queue, opened for the commands that serve it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recurvid.errors import OutputError

if TYPE_CHECKING:
    from recurvid.jobs.store import JobStore


def open_store(home: Path) -> JobStore:
    """The queue below a folder.

    Raises:
        OutputError: it cannot be written.
    """
    from recurvid.jobs.store import JobStore

    try:
        return JobStore(home)
    except OSError as error:
        raise OutputError(
            f"home {str(home)!r}: cannot be written ({error.strerror or error}); "
            "choose another with --home"
        ) from None
