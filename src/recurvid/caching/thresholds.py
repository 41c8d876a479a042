"""The step caches by name, each with its default threshold. No torch: requests read this.

A threshold says how much change a cache lets pass before it runs the blocks again. Zero lets none
pass, in every cache; the scales differ.
"""

from __future__ import annotations

OFF = "off"

THRESHOLDS: dict[str, float] = {
    "teacache": 0.15,  # the original's page
    "first-block": 0.05,  # diffusers' default
    "magcache": 0.1,  # FramePack-Studio's
    "taylor": 0.15,  # TeaCache's rule
    "taylor-2": 0.15,
}
