"""OpenAI's list of models, ``/v1/models``: those whose files are here, by their names."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from recurvid.checkpoints.known import KNOWN, ModelSpec
from recurvid.checkpoints.locate import status
from recurvid.server.openapi import errors
from recurvid.server.problems import Problem
from recurvid.server.schemas import OpenModel, OpenModelList
from recurvid.server.service import Owner

router = APIRouter(prefix="/v1/models", tags=["OpenAI"])

_US = "recurvid"


@router.get("", response_model=OpenModelList, responses=errors(401), summary="List the models here")
def list_open_models(_: Owner) -> dict[str, Any]:
    """The models that a video can be made with at this moment. `/api/models` has the others too."""
    return {"data": [body for spec in KNOWN.values() if (body := _body(spec)) is not None]}


@router.get(
    "/{model}", response_model=OpenModel, responses=errors(401, 404), summary="Retrieve a model"
)
def retrieve_open_model(
    model: Annotated[
        str, Path(pattern=r"^[\w.:-]{1,80}$", description="Name of a model, such as bundled.")
    ],
    _: Owner,
) -> dict[str, Any]:
    """One model whose files are here."""
    body = _body(KNOWN[model]) if model in KNOWN else None
    if body is None:
        message = f"model: there is no model {model[:60]!r} on this server"
        raise Problem(404, message, "model_not_found", parameter="model")
    return body


def _body(spec: ModelSpec) -> dict[str, Any] | None:
    """None where files are missing. ``created`` is when they came here."""
    found = [part.path for part in status(spec)]
    if None in found:
        return None
    repository = spec.components[0].repo
    try:
        created = max(int(path.stat().st_mtime) for path in found if path is not None)
    except OSError:  # gone this moment
        return None
    return {
        "id": spec.name,
        "created": created,
        "owned_by": repository.split("/")[0] if repository else _US,
    }
