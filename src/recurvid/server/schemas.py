"""What goes over the wire. What a request has is made from GenerationRequest's own fields.

The models made from dataclasses describe and convert; the dataclasses themselves have the last word
(:func:`request_from`, :func:`how_from`), so that no rule stands in two places.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import Field as DataclassField
from dataclasses import fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from recurvid.checkpoints.known import KNOWN
from recurvid.errors import RequestError
from recurvid.generation.request import (
    LONGEST_TEXT,
    GenerationRequest,
    default_of,
    limits_of,
    request_fields,
)
from recurvid.jobs.states import MOST_EXACT_STEPS, HowToRun, Job, JobState
from recurvid.server.problems import Problem

ID_PATTERN = r"^video_[0-9a-f]{32}$"
_CLOSED = ConfigDict(extra="forbid")


def _kind(hint: Any, choices: tuple[str, ...]) -> Any:
    """The type of a field, with a Literal in place of str where the values are known."""
    if not choices:
        return hint
    optional = get_origin(hint) in (Union, types.UnionType) and types.NoneType in get_args(hint)
    literal: Any = Literal[choices]
    return literal | None if optional else literal


def _request_field(spec: DataclassField[Any], hint: Any) -> tuple[Any, Any]:
    limits = limits_of(spec)
    choices = tuple(KNOWN) if spec.name == "model" else limits.choices
    kinds = get_args(hint) or (hint,)
    is_text = str in kinds and not choices
    described = limits.help + (f" ({limits.unit})" if limits.unit else "")
    if default_of(spec) is None:
        described += f" Default: {limits.unset}."
    made = Field(
        default=default_of(spec),
        description=described,
        ge=limits.minimum,
        le=limits.maximum,
        max_length=LONGEST_TEXT if is_text else None,
        json_schema_extra={"group": limits.group},
    )
    return _kind(hint, choices), made


def _request_model(name: str, **more: Any) -> type[BaseModel]:
    hints = get_type_hints(GenerationRequest)
    made: dict[str, Any] = {s.name: _request_field(s, hints[s.name]) for s in request_fields()}
    return create_model(name, __config__=_CLOSED, **(made | more))


_ABOUT_HOW = {
    "device": "auto, cpu, cuda, cuda:1, mps or xpu",
    "dtype": "Number type of the model: auto, float32, bfloat16 or float16.",
    "vram": "Device memory to keep to, GiB; null for what is free.",
    "attention": "Attention kernel: auto, or one that `recurvid doctor` lists.",
    "weights": "Form of the weights: auto, int8, fp8, int8-weights, nf4 or int4.",
    "compiled": "Compile the blocks: a minute at first, then faster.",
    "exact_steps": "First and last steps of a section without 8-bit attention, where that is used.",
    "sparse": "Sparse attention: none, or windows as 10x13+5@25. Changes the picture.",
    "metadata": "Whether the video carries its request.",
}


def _how_model() -> type[BaseModel]:
    hints = get_type_hints(HowToRun)
    made: dict[str, Any] = {}
    for spec in fields(HowToRun):
        kinds = get_args(hints[spec.name]) or (hints[spec.name],)
        bounds: dict[str, Any] = {}
        if str in kinds:
            bounds = {"min_length": 1, "max_length": 40}
        elif float in kinds:
            bounds = {"gt": 0, "le": 4096}
        elif int in kinds:
            bounds = {"ge": 0, "le": MOST_EXACT_STEPS}
        made[spec.name] = (
            hints[spec.name],
            Field(default=spec.default, description=_ABOUT_HOW[spec.name], **bounds),
        )
    return create_model("HowToRun", __config__=_CLOSED, **made)


RequestBody: type[BaseModel] = _request_model("GenerationRequest")
HowBody: type[BaseModel] = _how_model()
#: What OpenAI's endpoint takes beside the picture: its own fields are fields of a request too.
VideoForm: type[BaseModel] = _request_model("VideoForm")


def request_from(values: object, *, lax: bool = False) -> GenerationRequest:
    """A request out of JSON, or with ``lax`` out of the texts of a form.

    Raises:
        RequestError: naming the field.
    """
    if lax:
        assert isinstance(values, Mapping)
        values = _converted(VideoForm, values)
    return GenerationRequest.from_untrusted(values)


def how_from(values: object) -> HowToRun:
    """How to run, out of JSON.

    Raises:
        RequestError, InputError: naming the field.
    """
    if not isinstance(values, Mapping):
        raise RequestError("how: a JSON object of choices is needed")
    return HowToRun.from_json(_converted(HowBody, values))


def _converted(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return model.model_validate(dict(values)).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])[:60] or "body"
        message = "is not a field" if first["type"] == "extra_forbidden" else first["msg"]
        raise Problem(400, f"{name}: {message}", parameter=name) from None


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


class Edit(BaseModel):
    """What to change of a job that still waits. A request is replaced whole."""

    model_config = _CLOSED
    request: RequestBody  # pyright: ignore[reportInvalidTypeForm]
    how: HowBody | None = None  # pyright: ignore[reportInvalidTypeForm]


class Move(BaseModel):
    """Where a waiting job goes in the queue."""

    model_config = _CLOSED
    before: Annotated[str, Field(pattern=ID_PATTERN)] | None = Field(
        default=None, description="The job that it is put before; null for the end."
    )


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
