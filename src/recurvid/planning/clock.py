"""Seconds and frames a second -> sections, latent frames, and how much of the video is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recurvid.errors import InputError
from recurvid.latents import LatentGeometry
from recurvid.packing import PackingSchedule
from recurvid.planning.orders import MAX_SECTIONS


@dataclass(frozen=True)
class Duration:
    """How long a video gets; known before anything starts.

    Attributes:
        sections: denoising runs.
        latent_frames: of the whole timeline, start picture included.
        generated_frames: pixel frames that the whole timeline decodes to.
        frames: pixel frames kept, from the start of the timeline.
        fps: frames a second.
    """

    sections: int
    latent_frames: int
    generated_frames: int
    frames: int
    fps: int | float

    @property
    def seconds(self) -> float:
        """True length of what is kept."""
        return self.frames / self.fps


def duration(
    seconds: int | float,
    fps: int | float,
    schedule: PackingSchedule,
    geometry: LatentGeometry | None = None,
    *,
    whole_sections: bool = False,
) -> Duration:
    """Turn a wish in seconds into sections.

    By default the smallest number of sections that covers ``seconds * fps`` frames, of which
    exactly the frames asked for are kept (a part of a frame counts as one). With
    ``whole_sections``, the original's ``max(round(seconds * 30 / 36), 1)`` with rounding to even,
    and every frame is kept: 3 seconds become 2 sections of 73 frames in all.

    Raises:
        InputError: a length or rate that is not positive and finite, or far too long.
    """
    geometry = geometry or LatentGeometry()
    for name, value in (("seconds", seconds), ("fps", fps)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be a positive number, not {value}")
    stride = geometry.temporal_stride * schedule.generated
    if seconds * fps > MAX_SECTIONS * stride:
        raise InputError(f"{seconds:g} seconds are too long: at most {MAX_SECTIONS} sections")
    if whole_sections:
        sections = max(round(seconds * fps / stride), 1)
        frames = geometry.frames(sections * schedule.generated + 1)
    else:
        frames = max(1, math.ceil(seconds * fps - 1e-6))  # 8.3 * 30 > 249 in floating point
        sections = max(1, math.ceil((frames - 1) / stride))
    latent_frames = sections * schedule.generated + 1
    return Duration(sections, latent_frames, geometry.frames(latent_frames), frames, fps)
