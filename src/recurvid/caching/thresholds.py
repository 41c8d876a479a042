"""The step caches by name, each with its default threshold. No torch: requests read this.

A threshold says how much change a cache lets pass before it runs the blocks again. Zero lets none
pass, in every cache; the scales differ.
"""

from __future__ import annotations

OFF = "off"

#: As published, for the released models.
THRESHOLDS: dict[str, float] = {
    "teacache": 0.15,  # the original's page
    "first-block": 0.05,  # diffusers' default
    "magcache": 0.1,  # FramePack-Studio's
    "taylor": 0.15,  # TeaCache's rule
    "taylor-2": 0.15,
}
#: Where a model takes another: its residual changes more from step to step than a large model's.
#: Chosen by benchmarks/cache_curve.py.
OF_MODEL: dict[str, dict[str, float]] = {
    "bundled": {"first-block": 0.15, "magcache": 0.2},
}


def threshold_of(cache: str, model: str) -> float | None:
    """The threshold of a cache by default, for a model by name; None for no cache."""
    return OF_MODEL.get(model, {}).get(cache, THRESHOLDS.get(cache))
