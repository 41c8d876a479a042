"""OpenAI's video endpoints, ``/v1/videos``: the ``openai`` client works with them unchanged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from recurvid.errors import InputError
from recurvid.jobs.states import HowToRun
from recurvid.server.files import FileAnswer
from recurvid.server.openapi import BINARY, errors, form_body
from recurvid.server.problems import Problem, problem_of
from recurvid.server.schemas import (
    ID_PATTERN,
    VideoBody,
    VideoDeleted,
    VideoForm,
    VideoList,
    request_from,
    video_body,
)
from recurvid.server.service import JobId, Owner, Service, Serving, require_model
from recurvid.server.uploads import Upload, from_data_url, kind_of_body, read_form, read_json

router = APIRouter(prefix="/v1/videos", tags=["OpenAI"])

_PICTURE = "input_reference"
_PICTURE_URL = "input_reference[image_url]"
_POLL = {"openai-poll-after-ms": "500"}
_SCHEMA = VideoForm.model_json_schema()
_VIDEO_FORM = {
    "type": "object",
    "required": [_PICTURE],
    "additionalProperties": False,
    "properties": {
        **_SCHEMA["properties"],
        _PICTURE: {**BINARY, "description": "The start picture."},
    },
}


@router.post(
    "",
    response_model=VideoBody,
    responses=errors(400, 401, 413, 415, 429, 503),
    openapi_extra=form_body(_VIDEO_FORM),
    summary="Create a video",
)
async def create_video(request: Request, service: Serving, owner: Owner) -> dict[str, Any]:
    """Queue a video made from `prompt` and the picture `input_reference`.

    `model`, `seconds` and `size` are OpenAI's other fields; every field of a request is taken
    beside them (`extra_body` of the client), such as `seed` and `steps`.
    """
    with service.uploading():
        if kind_of_body(request) == "application/json":
            values: dict[str, Any] = await read_json(request)
            given = values.pop(_PICTURE, None)
            address = given.get("image_url") if isinstance(given, dict) else given
            return await _add_video(service, owner, values, _picture(None, address))
        async with read_form(request) as parts:
            form = parts.only([*_SCHEMA["properties"], _PICTURE_URL], [_PICTURE])
            values = dict(form.texts)
            picture = _picture(form.files.get(_PICTURE), values.pop(_PICTURE_URL, None))
            return await _add_video(service, owner, values, picture)


def _picture(upload: Upload | None, address: object) -> Upload:
    if upload is None and address is not None:
        return from_data_url(address, _PICTURE)
    if upload is None:
        message = f"{_PICTURE}: a start picture is needed"
        raise Problem(400, message, "missing_picture", parameter=_PICTURE)
    return upload


async def _add_video(
    service: Service, owner: str, values: dict[str, Any], picture: Upload
) -> dict[str, Any]:
    if isinstance(model := values.get("model"), str):
        await run_in_threadpool(require_model, model)
    asked = request_from(values, lax=True)
    try:
        return video_body(await service.add(asked, HowToRun(), owner, (picture, None), ""))
    except InputError as error:
        raise _in_their_words(problem_of(error)) from None


def _in_their_words(problem: Problem) -> Problem:
    """What is called a picture here is ``input_reference`` there."""
    if problem.parameter == "picture":
        problem.parameter = _PICTURE
        problem.message = _PICTURE + problem.message.removeprefix("picture")
    return problem


@router.get("", response_model=VideoList, responses=errors(400, 401, 404), summary="List videos")
def list_videos(
    service: Serving,
    owner: Owner,
    after: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """Your videos by when they were created; `after` is the last of the page before."""
    jobs = service.store.list(
        owner=owner, limit=limit + 1, after=after, newest_first=order == "desc"
    )
    page = [video_body(job) for job in jobs[:limit]]
    return {
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(jobs) > limit,
    }


@router.get(
    "/{id}", response_model=VideoBody, responses=errors(401, 404), summary="Retrieve a video"
)
def retrieve_video(id: JobId, service: Serving, owner: Owner, response: Response) -> dict[str, Any]:
    """How a video stands."""
    response.headers.update(_POLL)
    return video_body(service.store.get(id, owner))


@router.delete(
    "/{id}", response_model=VideoDeleted, responses=errors(401, 404, 409), summary="Delete a video"
)
def delete_video(id: JobId, service: Serving, owner: Owner) -> dict[str, Any]:
    """Remove a video with everything made for it; a running one must be cancelled first."""
    service.store.delete(id, owner)
    return {"id": id}


_KINDS = {
    "video": ("video/mp4", "mp4"),
    "thumbnail": ("image/webp", "webp"),
    "spritesheet": ("image/jpeg", "jpg"),
}
_CONTENT = {
    200: {"description": "The file.", "content": {kind: {"schema": BINARY} for kind, _ in
          _KINDS.values()}},
    206: {"description": "The part of it that a Range header asked for."},
    304: {"description": "It is what the client has."},
}  # fmt: skip


@router.get(
    "/{id}/content",
    status_code=200,
    response_class=FileAnswer,
    responses={**_CONTENT, **errors(400, 401, 404, 416)},
    summary="Download a video",
)
def download_video(
    id: JobId,
    service: Serving,
    owner: Owner,
    variant: Literal["video", "thumbnail", "spritesheet"] = "video",
) -> FileAnswer:
    """The finished video (mp4), its first frame (webp) or frames side by side (jpeg)."""
    service.store.get(id, owner)
    store = service.store
    find = {"video": store.video, "thumbnail": store.thumbnail, "spritesheet": store.sheet}[variant]
    kind, ending = _KINDS[variant]
    missing = "the video is not ready"
    if (path := find(id)) is None:
        raise Problem(404, missing, "video_not_ready")
    return FileAnswer(path, kind, f"{id}.{ending}" if variant == "video" else "", missing)


@router.post("/{id}/remix", include_in_schema=False)
@router.post("/edits", include_in_schema=False)
@router.post("/extensions", include_in_schema=False)
@router.post("/characters", include_in_schema=False)
@router.get("/characters/{id}", include_in_schema=False)
def refuse_what_is_not_there(request: Request, _: Owner) -> None:
    """What OpenAI's client can ask for beside: said as what it is, and not as a lost page."""
    what = request.url.path.removeprefix("/v1/videos/").split("/")
    name = "remix" if what[-1] == "remix" else what[0]
    raise Problem(
        400,
        f"{name}: is not there; a video is made from a picture and a prompt, by POST /v1/videos",
        "not_supported",
    )
