"""What clients get: the bodies of answers, and jobs as the two APIs tell of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from recurvid.checkpoints.known import KNOWN
from recurvid.jobs.states import Job, JobState
from recurvid.server.asked import HowBody, RequestBody


class ProgressBody(BaseModel):
    """How far a job is."""

    phase: str = Field(description='"" before it began; load, encode, denoise, decode or write.')
    section: int | None = Field(description="Number of the running section, from 0.")
    sections: int | None = Field(description="How many sections; null before planning.")
    step: int
    steps: int
    frames: int = Field(description="Finished frames.")
    provisional: int = Field(description="Others in the video so far, until theirs are finished.")
    total_frames: int | None
    seconds_left: float | None = Field(description="Estimated; null while nothing was measured.")
    done_sections: list[int]


class JobBody(BaseModel):
    """One job."""

    id: str
    object: Literal["job"] = "job"
    state: JobState
    title: str
    request: RequestBody  # pyright: ignore[reportInvalidTypeForm]
    how: HowBody  # pyright: ignore[reportInvalidTypeForm]
    position: float = Field(description="Order in the queue; lower is earlier.")
    percent: int = Field(ge=0, le=100)
    created_at: float = Field(description="Unix seconds, as the others.")
    started_at: float | None
    finished_at: float | None
    progress: ProgressBody
    width: int | None = Field(description="Pixels, once planned.")
    height: int | None
    fps: float | None
    seconds: float | None = Field(description="True length, once planned.")
    has_end_picture: bool
    error_code: str | None
    error: str | None
    cancelling: bool = Field(description="Asked to stop; it ends after the running step.")
    attempts: int
    revision: int = Field(description="Grows with every change.")


class JobList(BaseModel):
    """Some jobs."""

    object: Literal["list"] = "list"
    data: list[JobBody]
    has_more: bool
    last_id: str | None = Field(description="Give it as `after` for the next page.")


class VideoError(BaseModel):
    """Why a video failed."""

    code: str
    message: str


class VideoBody(BaseModel):
    """A job as OpenAI's clients know it."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(ge=0, le=100)
    created_at: int
    completed_at: int | None
    expires_at: int | None = None
    seconds: str
    size: str
    prompt: str
    remixed_from_video_id: str | None = None
    error: VideoError | None


class VideoList(BaseModel):
    """Some videos."""

    object: Literal["list"] = "list"
    data: list[VideoBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """A video that is gone."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


class ModelBody(BaseModel):
    """A model that a request can name."""

    name: str
    title: str
    present: bool = Field(description="Whether all its files are here. None is fetched unasked.")
    defaults: dict[str, Any]


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelBody]


class OpenModel(BaseModel):
    """A model that is here, as OpenAI's clients know one."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix seconds; when its files came here.")
    owned_by: str


class OpenModelList(BaseModel):
    """All models that are here."""

    object: Literal["list"] = "list"
    data: list[OpenModel]


class QueueBody(BaseModel):
    """Whether jobs are taken at this moment."""

    paused: bool
    reason: str | None
    notices: list[str] = Field(
        description="Devices that cannot work, and why, while others go on with the queue."
    )
    running: list[str] = Field(description="Names of your jobs that run.")
    waiting: list[str] = Field(description="Names of your jobs that wait, next one first.")


class Health(BaseModel):
    """That the server answers."""

    status: Literal["ok"] = "ok"


def percent(job: Job) -> int:
    """Of the work, 0 to 100; 100 only for what is done."""
    if job.state is JobState.DONE:
        return 100
    return min(99, int(100 * job.progress.fraction))


def job_body(job: Job) -> dict[str, Any]:
    """A job for the native API. The owner's name stays here."""
    return {
        "id": job.id, "object": "job", "state": job.state, "title": job.title,
        "request": {k: v for k, v in job.request.to_json().items() if k != "format"},
        "how": job.how.to_json(), "position": job.position, "percent": percent(job),
        "created_at": job.created_at, "started_at": job.started_at,
        "finished_at": job.finished_at, "progress": job.progress.to_json(),
        "width": job.width, "height": job.height, "fps": job.fps, "seconds": job.seconds,
        "has_end_picture": job.has_end_picture, "error_code": job.error_code, "error": job.error,
        "cancelling": job.cancelling, "attempts": job.attempts, "revision": job.revision,
    }  # fmt: skip


_STATUS = {
    JobState.QUEUED: "queued",
    JobState.RUNNING: "in_progress",
    JobState.INTERRUPTED: "in_progress",
    JobState.DONE: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}


def video_body(job: Job) -> dict[str, Any]:
    """A job for OpenAI's clients: running and interrupted are in progress, cancelled is failed."""
    error = None
    if job.state is JobState.FAILED:
        error = {"code": job.error_code or "failed", "message": job.error or "the job failed"}
    elif job.state is JobState.CANCELLED:
        error = {"code": "cancelled", "message": "the job was cancelled"}
    done = job.state is JobState.DONE
    size = f"{job.width}x{job.height}" if job.plan else job.request.size
    return {
        "id": job.id, "object": "video", "model": job.request.model,
        "status": _STATUS[job.state], "progress": percent(job),
        "created_at": int(job.created_at),
        "completed_at": int(job.finished_at) if done and job.finished_at else None,
        "expires_at": None, "seconds": f"{job.seconds or job.request.seconds:g}",
        "size": size or str(KNOWN[job.request.model].defaults.base),
        "prompt": job.request.prompt, "remixed_from_video_id": None, "error": error,
    }  # fmt: skip
