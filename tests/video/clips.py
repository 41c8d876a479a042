"""Frames that know their number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from hypothesis import HealthCheck

# Fixtures of the folder serve all examples, and a busy machine is slow.
EVERY_CHECK = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


def moving_frames(first: int, count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """The left half's red is 3 * number; a bar moves on the right."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for row, number in enumerate(range(first, first + count)):
        frames[row, :, : width // 2, 0] = 3 * number % 240
        start = width // 2 + number % (width // 2 - 8)
        frames[row, :, start : start + 8] = (40, 200, 90)
    return frames


def number_of(frame: np.ndarray) -> float:
    """The number of a decoded moving frame, modulo 80."""
    return float(frame[:, 4:32, 0].mean()) / 3


def packets_of(path: Path) -> list[Any]:
    """The packets of the video stream. PyAV's types say None where there is none."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [packet for packet in container.demux(stream) if packet.size]


def stream_of(container: Any) -> Any:
    """The video stream, of any type for the checker, as PyAV's say None where there is none."""
    return container.streams.video[0]
