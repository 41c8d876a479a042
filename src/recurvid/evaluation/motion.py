"""Which way a video moves, by optical flow.

Needs OpenCV (extra ``train``). Flow is followed from frame to frame in short hops and added up
along the way, since a whole video moves further than a flow estimate reaches in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurvid.errors import ComponentError, InputError

Frames = NDArray[np.uint8]
Flow = NDArray[np.float32]


@dataclass(frozen=True)
class Motion:
    """Motion of a whole video, in pixels from the first frame to the last.

    Attributes:
        length: median length of the flow over all pixels.
        right: median movement of the picture to the right (a camera that pans left).
        down: median movement of the picture downwards.
        outward: median movement away from the centre (a camera that zooms in).
        flicker: mean over hops of the part of the movement that the next hop takes back, 0 to 1.
    """

    length: float
    right: float
    down: float
    outward: float
    flicker: float


def measure_motion(frames: Frames, hop: int = 4) -> Motion:
    """Measure frames (t, h, w, 3) uint8, t >= 2.

    Raises:
        ComponentError: OpenCV is not installed.
        InputError: fewer than two frames.
    """
    if len(frames) < 2:
        raise InputError("motion needs at least two frames")
    picks = [*range(0, len(frames) - 1, hop), len(frames) - 1]
    hops = [_flow(frames[a], frames[b]) for a, b in pairwise(picks)]
    total, lost = _follow(hops)
    height, width = frames.shape[1:3]
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    dx, dy = xx - (width - 1) / 2, yy - (height - 1) / 2
    radius = np.maximum(np.hypot(dx, dy), 1.0)
    # a point that left the picture was followed only as long as it could be seen
    seen = ~lost if (~lost).mean() > 0.2 else np.ones_like(lost)
    u, v = total[..., 0][seen], total[..., 1][seen]
    outward = ((total[..., 0] * dx + total[..., 1] * dy) / radius)[seen]
    medians = [np.median(h.reshape(-1, 2), axis=0) for h in hops]
    return Motion(
        float(np.median(np.hypot(u, v))),
        float(np.median(u)),
        float(np.median(v)),
        float(np.median(outward)),
        _taken_back(np.array(medians)),
    )


def _flow(a: Frames, b: Frames) -> Flow:
    cv2 = _opencv()
    gray = [cv2.cvtColor(np.ascontiguousarray(f), cv2.COLOR_RGB2GRAY) for f in (a, b)]
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return estimator.calc(gray[0], gray[1], None)


def _follow(hops: list[Flow]) -> tuple[Flow, NDArray[np.bool_]]:
    """Add flows up along the path of each pixel of the first frame; and which left the picture."""
    cv2 = _opencv()
    height, width = hops[0].shape[:2]
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    total = np.zeros((height, width, 2), np.float32)
    lost = np.zeros((height, width), bool)
    for flow in hops:
        x, y = xx + total[..., 0], yy + total[..., 1]
        lost |= (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)
        step = cv2.remap(flow, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        total += step
    return total, lost


def _taken_back(medians: NDArray[Any]) -> float:
    """Share of the way that is walked back: 1 - |sum| / sum of lengths."""
    way = float(np.hypot(medians[:, 0], medians[:, 1]).sum())
    return 0.0 if way < 1e-6 else 1 - float(np.hypot(*medians.sum(0))) / way


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ComponentError(
            "motion needs OpenCV: pip install opencv-python-headless, or recurvid[train]"
        ) from error
    return cv2
