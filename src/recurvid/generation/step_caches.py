"""A request's step cache, ready to be born for each section and guidance branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from recurvid.caching.calibration import FILE, Calibration
from recurvid.caching.magcache import PUBLISHED
from recurvid.caching.protocol import StepCache
from recurvid.caching.registry import CACHES, new_cache
from recurvid.caching.thresholds import OFF
from recurvid.errors import RequestError
from recurvid.generation.request import GenerationRequest
from recurvid.sampling.stepping import Solver


@dataclass(frozen=True)
class Caching:
    """How a section's denoising run is cached.

    Attributes:
        new: makes the cache of one section and one guidance branch.
        sigmas: noise level of each model call of the run.
    """

    new: Callable[[], StepCache]
    sigmas: tuple[float, ...]


def calls_of(solver: Solver, sigmas: Tensor) -> tuple[float, ...]:
    """The noise levels at which a solver asks the model, in order: found by letting it ask."""
    asked: list[float] = []

    def nothing(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma))
        return torch.zeros_like(x)

    for _ in solver(nothing, torch.zeros(1, 1, 1, 1, 1), sigmas.cpu()):
        pass
    return tuple(asked)


def calibration_for(request: GenerationRequest, weights: Sequence[Path]) -> Calibration | None:
    """The calibration that a request's cache needs; None where it needs none.

    Args:
        weights: files of the transformer. A calibration beside them goes before a published one.

    Raises:
        RequestError: there is none for this model.
        CheckpointError: the file beside the weights is something else.
    """
    if request.step_cache == OFF or not CACHES[request.step_cache].calibrated:
        return None
    for folder in dict.fromkeys(file.parent for file in weights):
        if (folder / FILE).is_file():
            return Calibration.load(folder / FILE)
    if request.model not in PUBLISHED:
        usable = ", ".join(name for name, kind in CACHES.items() if not kind.calibrated)
        raise RequestError(
            f"step_cache: {request.step_cache} is not calibrated for the model {request.model!r} "
            f"(no {FILE} beside its weights); use one of {usable}"
        )
    return PUBLISHED[request.model]


def caching_for(
    request: GenerationRequest, calibration: Calibration | None, solver: Solver, sigmas: Tensor
) -> Caching | None:
    """How the sections of a request are cached; None where they are not."""
    if request.step_cache == OFF:
        return None
    new = partial(new_cache, request.step_cache, request.cache_threshold, calibration)
    return Caching(new, calls_of(solver, sigmas))
