"""Frames that know their number."""

from __future__ import annotations

import numpy as np


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
