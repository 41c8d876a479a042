"""Every step cache by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from recurvid.caching.calibration import Calibration
from recurvid.caching.first_block import FirstBlockCache
from recurvid.caching.magcache import MagCache, MagRule
from recurvid.caching.protocol import StepCache
from recurvid.caching.taylor import TaylorCache
from recurvid.caching.teacache import TeaCache
from recurvid.caching.thresholds import THRESHOLDS
from recurvid.errors import InputError


@dataclass(frozen=True)
class CacheKind:
    """How a step cache is made.

    Attributes:
        make: threshold, calibration -> a new cache, for one section and one guidance branch.
        calibrated: whether it needs a calibration; others are handed None.
    """

    make: Callable[[float, Calibration | None], StepCache]
    calibrated: bool = False


def _magcache(threshold: float, calibration: Calibration | None) -> StepCache:
    assert calibration is not None
    return MagCache(calibration, MagRule(threshold, jump=calibration.jump))


CACHES: dict[str, CacheKind] = {
    "teacache": CacheKind(lambda threshold, _: TeaCache(threshold)),
    "first-block": CacheKind(lambda threshold, _: FirstBlockCache(threshold)),
    "magcache": CacheKind(_magcache, calibrated=True),
    "taylor": CacheKind(lambda threshold, _: TaylorCache(threshold, order=1)),
    "taylor-2": CacheKind(lambda threshold, _: TaylorCache(threshold, order=2)),
}


def new_cache(
    name: str, threshold: float | None = None, calibration: Calibration | None = None
) -> StepCache:
    """A new cache, for one section and one guidance branch.

    Args:
        name: a key of CACHES.
        threshold: None for the cache's own; 0 computes every step.
        calibration: of the model, for a cache that needs one.

    Raises:
        InputError: unknown name, a threshold below zero, or no calibration where one is needed.
    """
    if name not in CACHES:
        raise InputError(f"step cache: {name!r} is unknown; one of {', '.join(CACHES)}")
    limit = THRESHOLDS[name] if threshold is None else threshold
    if not (math.isfinite(limit) and limit >= 0):
        raise InputError(f"step cache {name}: the threshold must be 0 or above, not {limit}")
    kind = CACHES[name]
    if kind.calibrated and calibration is None:
        raise InputError(f"step cache {name}: there is no calibration for this model")
    return kind.make(limit, calibration)
