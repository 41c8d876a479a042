"""Which model a request means, and the request with that model's defaults filled in. No torch."""

from __future__ import annotations

from typing import Any

from recurvid.caching.thresholds import OFF, threshold_of
from recurvid.checkpoints.known import KNOWN, ModelSpec
from recurvid.errors import RequestError
from recurvid.generation.request import GenerationRequest, parse_size
from recurvid.video.buckets import bucket_for, check_size

DEFAULT_SOLVER = "unipc"
#: The paper's schedule for an order that the model was not made for, when only the order is asked.
STANDARD_SCHEDULES = {
    "inverted": "f1k1_x_g9_f1k1f2k2f16k4_td",
    "forward": "f1k1_f16k4f2k2f1k1_g9",
    "endpoint": "td_f16k4f4k2f1k1_g9_x_f1k1",
    "planned": "td_f16k4f4k2f1k1_g9_x_f1k1",
}
_FILLED = (
    "order",
    "schedule",
    "fps",
    "size",
    "steps",
    "solver",
    "shift",
    "guidance_scale",
    "cfg_scale",
)


def spec_of(request: GenerationRequest) -> ModelSpec:
    """The known model that a request names.

    Raises:
        RequestError: no such model.
    """
    if request.model not in KNOWN:
        raise RequestError(
            f"model: {request.model!r} is unknown; one of {', '.join(KNOWN)}",
            "model.unknown",
            model=request.model,
        )
    return KNOWN[request.model]


def resolved(request: GenerationRequest, spec: ModelSpec) -> GenerationRequest:
    """The request with every None replaced by what the model is made for.

    A session and a video keep this form, so that they mean the same under later defaults.
    ``guidance_scale`` stays None for a model without the embedding.

    Raises:
        RequestError: a guidance scale for a model that has none, a threshold for no cache.
    """
    made_for = spec.defaults
    guidance = request.guidance_scale
    if guidance is not None and made_for.guidance_scale is None:
        raise RequestError(
            f"guidance_scale: the model {spec.name!r} has no guidance embedding; use cfg_scale",
            "guidance.none",
            model=spec.name,
        )
    if request.step_cache == OFF and request.cache_threshold is not None:
        raise RequestError(
            "cache_threshold: there is no step cache to hold to it; set step_cache",
            "threshold.none",
        )
    order = _or(request.order, made_for.order)
    usual = made_for.schedule if order == made_for.order else STANDARD_SCHEDULES[order]
    return request.but(
        order=order,
        schedule=_or(request.schedule, usual),
        fps=_or(request.fps, made_for.fps),
        size=_or(request.size, str(made_for.base)),
        steps=_or(request.steps, made_for.steps),
        solver=_or(request.solver, DEFAULT_SOLVER),
        shift=_or(request.shift, made_for.shift or 0.0),
        guidance_scale=_or(guidance, made_for.guidance_scale),
        cfg_scale=_or(request.cfg_scale, made_for.cfg_scale),
        cache_threshold=_or(request.cache_threshold, threshold_of(request.step_cache, spec.name)),
    )


def unresolved(request: GenerationRequest, spec: ModelSpec) -> GenerationRequest:
    """The opposite of :func:`resolved`: what a model's defaults say is left open again.

    So the settings of a video carry over to another model, without the first one's schedule.
    """
    blank = request.but(**dict.fromkeys(_FILLED))
    filled = resolved(blank, spec)
    chosen = {
        name: getattr(request, name)
        for name in _FILLED
        if getattr(request, name) != getattr(filled, name)
    }
    return blank.but(**chosen)


def video_size(size: str, picture_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the video for a request's ``size`` and a picture's (height, width).

    Raises:
        RequestError: a size that no video here can have.
    """
    asked = parse_size(size)
    if isinstance(asked, int):
        return bucket_for(picture_size[0], picture_size[1], asked)
    check_size(asked[1], asked[0])
    return asked[1], asked[0]


def _or(given: Any, default: Any) -> Any:
    return default if given is None else given
