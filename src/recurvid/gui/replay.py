"""Settings out of a video that somebody dropped on the page: data from a stranger."""

from __future__ import annotations

from pathlib import Path

from recurvid.checkpoints.known import KNOWN
from recurvid.errors import InputError, RequestError
from recurvid.generation.request import GenerationRequest
from recurvid.video.metadata import read_metadata


def request_in(video: Path) -> GenerationRequest:
    """The request inside a video of RecurVid.

    Known fields only, and a model that this program knows by name: nothing in it can be a path or
    a repository, and nothing is fetched for it.

    Raises:
        InputError: it carries none, or one that is not understood here.
    """
    found = read_metadata(video)
    if found is None or "request" not in found:
        raise InputError("this file carries no settings of RecurVid", "replay.none")
    return checked(GenerationRequest.from_untrusted(found["request"]))


def checked(request: GenerationRequest) -> GenerationRequest:
    """The same request, if its model is one of ours.

    Raises:
        RequestError: it is not.
    """
    if request.model not in KNOWN:
        raise RequestError(
            f"these settings ask for the model {request.model!r}, which is not known here; "
            f"one of {', '.join(KNOWN)}",
            "model.unknown",
            model=request.model,
        )
    return request
