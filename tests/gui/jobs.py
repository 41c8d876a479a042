"""Jobs in any state, without a worker: what a worker would write is written here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from recurvid.jobs.states import Job, JobPlan, JobProgress, JobState, SectionSpan
from recurvid.jobs.store import JobStore

PICTURE = Path(__file__).parents[2] / "examples" / "valley.jpg"
PLAN = JobPlan(96, 64, 12.0, 60, "inverted", (SectionSpan(36, 61), SectionSpan(0, 36)))


def put(
    store: JobStore,
    job: Job,
    state: JobState,
    *,
    progress: JobProgress | None = None,
    plan: JobPlan | None = PLAN,
    error: str | None = None,
    error_code: str | None = None,
    files: Sequence[str] = (),
) -> Job:
    """Bring a job into a state, and make files of it."""
    folder = store.folders.of(job.id)
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"some bytes of a video or picture")
    with store.database.writing() as connection:
        connection.execute(
            "UPDATE jobs SET state=?, progress=?, plan=?, error=?, error_code=?, "
            "revision=revision+1 WHERE id=?",
            (
                state,
                json.dumps((progress or JobProgress()).to_json()),
                json.dumps(plan.to_json()) if plan else None,
                error,
                error_code,
                job.id,
            ),
        )
    return store.get(job.id)
