"""Notes: what slots say of why they take nothing, and whether that stops the queue."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from recurvid.errors import LimitError, Line
from recurvid.jobs.database import Database
from recurvid.jobs.slots import held, slots_at_work
from recurvid.jobs.states import JobState, QueueState


def say(database: Database, slot: str, text: str | None, *, replace: bool = True) -> None:
    """Keep what a slot says; None for nothing.

    Args:
        replace: what it says already.
    """
    with database.reading() as connection:
        row = connection.execute("SELECT text FROM notes WHERE name = ?", (slot,)).fetchone()
    if text == (None if row is None else row["text"]) or (row is not None and not replace):
        return
    with (
        suppress(sqlite3.OperationalError, LimitError),
        database.writing(durable=False) as writing,
    ):
        if text is None:
            writing.execute("DELETE FROM notes WHERE name = ?", (slot,))
        else:
            writing.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (slot, text))


def forget(database: Database, home: Path, others: Iterable[str] = ()) -> None:
    """Drop what slots said that nobody looks after any more.

    Args:
        others: slots that somebody looks after.
    """
    with database.reading() as connection:
        said = [row["name"] for row in connection.execute("SELECT name FROM notes")]
    for slot in {*said} - {*others}:
        with held(home, slot, "supervisor") as nobody:
            if nobody:
                say(database, slot, None)


def queue_state(database: Database, home: Path) -> QueueState:
    """Whether jobs are taken by anybody; a disk that is nearly full is not looked at."""
    with database.reading() as connection:
        held_back = connection.execute(
            "SELECT error FROM jobs WHERE state = ? AND not_before > ? AND error_code = ?",
            (JobState.INTERRUPTED, time.time(), "disk_full"),
        ).fetchone()
        notes = dict(connection.execute("SELECT name, text FROM notes ORDER BY name"))
    if held_back is not None:
        return QueueState(True, Line(held_back[0], "disk_full"))
    if notes and not slots_at_work(home) - notes.keys():
        return QueueState(True, Line("; ".join(notes.values()), "queue.no_worker"))
    return QueueState(False, notices=tuple(notes.values()))
