"""How a job leaves its worker: ended, interrupted, or taken back from one that is dead."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from dataclasses import replace
from typing import Any

from recurvid.jobs.limits import Limits
from recurvid.jobs.rows import change, find_row, record
from recurvid.jobs.states import JobProgress, JobState

logger = logging.getLogger(__name__)


def end(connection: sqlite3.Connection, id: str, state: JobState, **columns: Any) -> None:
    """It is over, unless somebody resumes it."""
    if state is not JobState.DONE:
        columns["progress"] = _at_rest(connection, id)
    ended = {"state": state, "finished_at": time.time(), "cancelling": 0}
    change(connection, id, **ended, slot=None, token=None, **columns)


def leave(connection: sqlite3.Connection, id: str, **columns: Any) -> None:
    """It is interrupted, and goes on by itself."""
    columns["progress"] = _at_rest(connection, id)
    change(connection, id, state=JobState.INTERRUPTED, slot=None, token=None, **columns)


def take_back(
    connection: sqlite3.Connection, row: sqlite3.Row, crash: str | None, limits: Limits
) -> None:
    """Its worker is dead: it goes on elsewhere, or has been tried often enough.

    Args:
        crash: how the worker ended by a fault of its own; None where it was stopped.
    """
    id, crashes = row["id"], row["crashes"] + (crash is not None)
    logger.warning("job %s: its worker is gone (%s)", id, crash or "stopped")
    if row["cancelling"]:
        end(connection, id, JobState.CANCELLED)
    elif crashes >= max(1, limits.crashes):
        text = (
            f"the model's process ended {crashes} times without finishing a section "
            f"(last: {crash}{_hint(crash)}); resume tries again"
        )
        end(connection, id, JobState.FAILED, error_code="worker_crashed", error=text)
    elif row["restarts"] >= max(1, limits.restarts):
        text = (
            f"it was interrupted {row['restarts']} times without finishing a section; "
            "resume tries again"
        )
        end(connection, id, JobState.FAILED, error_code="worker_crashed", error=text)
    else:
        leave(connection, id, crashes=crashes)


def _at_rest(connection: sqlite3.Connection, id: str) -> str:
    """Progress of a job that nobody runs: the section it was in will be begun again."""
    row = find_row(connection, id, None)
    now = JobProgress.from_text(row["progress"])
    rest = replace(now, phase="", section=None, step=0, steps=0, seconds_left=None)
    record(connection, id, row["owner"], "progress", rest.to_json())
    return json.dumps(rest.to_json())


def _hint(crash: str | None) -> str:
    return ", often a lack of memory" if crash == "killed by SIGKILL" else ""
