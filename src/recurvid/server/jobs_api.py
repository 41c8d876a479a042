"""The native endpoints, ``/api``: everything that a job has and can do."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from recurvid.checkpoints.known import KNOWN
from recurvid.generation.request import GenerationRequest
from recurvid.jobs.states import HowToRun, JobState
from recurvid.server.files import FileAnswer
from recurvid.server.openapi import BINARY, errors, form_body
from recurvid.server.problems import Problem
from recurvid.server.schemas import (
    ID_PATTERN,
    Edit,
    JobBody,
    JobList,
    ModelList,
    Move,
    QueueBody,
    how_from,
    job_body,
    request_from,
)
from recurvid.server.service import (
    JobId,
    Owner,
    Serving,
    model_is_present,
    require_model,
)
from recurvid.server.uploads import from_json_text, read_form

router = APIRouter(prefix="/api", tags=["Jobs"])

_DEFAULT_MODEL = GenerationRequest().model
_FILES = ("picture", "end_picture")
_JOB_FORM = {
    "type": "object",
    "required": ["picture"],
    "additionalProperties": False,
    "properties": {
        "picture": {**BINARY, "description": "The start picture."},
        "end_picture": {**BINARY, "description": "A picture that the video leads to."},
        "request": {"$ref": "#/components/schemas/GenerationRequest"},
        "how": {"$ref": "#/components/schemas/HowToRun"},
        "title": {"type": "string", "description": "For display; by default the file's name."},
    },
}


@router.post(
    "/jobs",
    response_model=JobBody,
    status_code=201,
    responses=errors(400, 401, 413, 415, 429, 503),
    openapi_extra=form_body(_JOB_FORM, request="application/json", how="application/json"),
    summary="Create a job",
)
async def create_job(request: Request, service: Serving, owner: Owner) -> dict[str, Any]:
    """Queue a video: pictures as files; `request` and `how` as JSON."""
    with service.uploading():
        async with read_form(request) as parts:
            form = parts.only(("request", "how", "title"), _FILES)
            picture = form.files.get("picture")
            if picture is None:
                message = "picture: a start picture is needed"
                raise Problem(400, message, "missing_picture", parameter="picture")
            asked = request_from(form.texts.get("request", "{}"))
            how = how_from(from_json_text(form.texts.get("how", "{}"), "how"))
            pictures = (picture, form.files.get("end_picture"))
            title = form.texts.get("title", "")
            return job_body(await service.add(asked, how, owner, pictures, title))


@router.get("/jobs", response_model=JobList, responses=errors(400, 401, 404), summary="List jobs")
def list_jobs(
    service: Serving,
    owner: Owner,
    state: Annotated[list[JobState] | None, Query()] = None,
    after: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    newest_first: bool = True,
) -> dict[str, Any]:
    """Your jobs by when they were added; `after` is the last of the page before."""
    jobs = service.store.list(
        owner=owner, states=state, limit=limit + 1, after=after, newest_first=newest_first
    )
    page = [job_body(job) for job in jobs[:limit]]
    return {
        "data": page,
        "has_more": len(jobs) > limit,
        "last_id": page[-1]["id"] if page else None,
    }


@router.get("/jobs/{id}", response_model=JobBody, responses=errors(401, 404), summary="Get a job")
def get_job(id: JobId, service: Serving, owner: Owner) -> dict[str, Any]:
    """How a job stands."""
    return job_body(service.store.get(id, owner))


@router.put(
    "/jobs/{id}",
    response_model=JobBody,
    responses=errors(400, 401, 404, 409),
    summary="Edit a job",
)
def edit_job(id: JobId, edit: Edit, service: Serving, owner: Owner) -> dict[str, Any]:
    """Replace what a job asks for that has not begun; of a begun one, duplicate it first."""
    asked = edit.request.model_dump(exclude_unset=True)
    how = None if edit.how is None else HowToRun.from_json(edit.how.model_dump(exclude_unset=True))
    require_model(asked.get("model", _DEFAULT_MODEL))
    return job_body(service.store.edit(id, request_from(asked), how, owner=owner))


@router.delete(
    "/jobs/{id}",
    status_code=204,
    response_class=Response,
    responses=errors(401, 404, 409),
    summary="Delete a job",
)
def delete_job(id: JobId, service: Serving, owner: Owner) -> None:
    """Remove a job with everything that it made; a running one must be cancelled first."""
    service.store.delete(id, owner)


@router.post(
    "/jobs/{id}/cancel",
    response_model=JobBody,
    responses=errors(401, 404, 409),
    summary="Cancel a job",
)
def cancel_job(id: JobId, service: Serving, owner: Owner) -> dict[str, Any]:
    """Stop a job, after the running step; what it has made is kept."""
    return job_body(service.store.cancel(id, owner))


@router.post(
    "/jobs/{id}/resume",
    response_model=JobBody,
    responses=errors(401, 404, 409, 429, 503),
    summary="Resume a job",
)
def resume_job(id: JobId, service: Serving, owner: Owner) -> dict[str, Any]:
    """Go on with a cancelled or failed job, to the same bits."""
    return job_body(service.store.resume(id, owner))


@router.post(
    "/jobs/{id}/duplicate",
    response_model=JobBody,
    status_code=201,
    responses=errors(401, 404, 429, 503),
    summary="Duplicate a job",
)
def duplicate_job(id: JobId, service: Serving, owner: Owner) -> dict[str, Any]:
    """Queue the same request with the same pictures once more."""
    require_model(service.store.get(id, owner).request.model)
    return job_body(service.store.duplicate(id, owner))


@router.post(
    "/jobs/{id}/move",
    response_model=JobBody,
    responses=errors(400, 401, 404, 409),
    summary="Move a job in the queue",
)
def move_job(id: JobId, move: Move, service: Serving, owner: Owner) -> dict[str, Any]:
    """Put a waiting job before another of yours, or last."""
    return job_body(service.store.move(id, move.before, owner))


# Every file that a job has: name in the address -> how the store finds it, its type, what it is.
_PARTS = {
    "picture": ("picture", "image/png", "The start picture, as it was decoded."),
    "end_picture": ("end_picture", "image/png", "The picture that the video leads to."),
    "preview": ("preview", "image/webp", "The section in the making, moving; a few steps old."),
    "so_far": ("so_far", "video/mp4", "The video so far; grows with each section."),
    "video": ("video", "video/mp4", "The finished video."),
    "thumbnail": ("thumbnail", "image/webp", "First frame of the finished video."),
    "sheet": ("sheet", "image/jpeg", "Frames of the finished video side by side."),
}


def _add_file_route(name: str, find: str, kind: str, about: str) -> None:
    def send_file(id: JobId, service: Serving, owner: Owner) -> FileAnswer:
        service.store.get(id, owner)
        path = getattr(service.store, find)(id)
        if path is None:
            raise Problem(404, f"{name}: this job has none yet", "not_ready")
        return FileAnswer(path, kind, missing=f"{name}: this job has none yet")

    found = {"description": about, "content": {kind: {"schema": BINARY}}}
    partial = {"description": "The part that a Range header asked for."}
    router.add_api_route(
        f"/jobs/{{id}}/{name}",
        send_file,
        methods=["GET"],
        status_code=200,
        response_class=FileAnswer,
        responses={
            200: found,
            206: partial,
            304: {"description": "It is what the client has."},
            **errors(401, 404, 416),
        },
        summary=about.rstrip("."),
        description=about,
        operation_id=f"job_{name}",
    )


for _name, (_find, _kind, _about) in _PARTS.items():
    _add_file_route(_name, _find, _kind, _about)


@router.get("/models", response_model=ModelList, responses=errors(401), summary="List models")
def list_models(_: Owner) -> dict[str, Any]:
    """The models that a request can name, and whether their files are here."""
    return {
        "data": [
            {
                "name": spec.name,
                "title": spec.title,
                "present": model_is_present(spec.name),
                "defaults": {
                    "order": spec.defaults.order,
                    "schedule": spec.defaults.schedule,
                    "fps": spec.defaults.fps,
                    "size": str(spec.defaults.base),
                    "steps": spec.defaults.steps,
                    "guidance_scale": spec.defaults.guidance_scale,
                    "cfg_scale": spec.defaults.cfg_scale,
                },
            }
            for spec in KNOWN.values()
        ]
    }


@router.get("/queue", response_model=QueueBody, responses=errors(401), summary="The queue")
def get_queue(service: Serving, owner: Owner) -> dict[str, Any]:
    """Whether jobs are taken now, and which of yours run and wait, in their order."""
    state = service.store.queue_state()
    running = service.store.list(owner=owner, states=[JobState.RUNNING], newest_first=False)
    return {
        "paused": state.paused,
        "reason": state.reason,
        "notices": list(state.notices),
        "running": [job.id for job in running],
        "waiting": [job.id for job in service.store.queue(owner)],
    }
