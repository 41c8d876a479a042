"""Limits of a queue that strangers may use: one dataclass, checked in one place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from recurvid.errors import InputError, LimitError
from recurvid.generation.defaults import resolved, spec_of, video_size
from recurvid.generation.request import GenerationRequest

MB, GB = 10**6, 10**9

#: Code and text of the LimitError for a full disk.
FULL = ("disk_full", "the server's disk is full; try again when there is room")


@dataclass(frozen=True)
class Limits:
    """What a queue takes.

    Attributes:
        upload_bytes: of one picture file.
        pixels: of one picture, checked before it is decoded.
        video_pixels: width times height of a video.
        seconds: length of a video.
        frames: of a video, seconds times frames a second.
        steps: denoising steps a section.
        queue_length: jobs that wait or run.
        jobs_per_owner: the same, of one key.
        disk_free_bytes: kept free; below it the queue pauses. A tenth of the disk where that is
            less.
        keep_sessions_days: after which the latents of a job that is no longer active are removed.
        keep_sessions_bytes: of all sessions that are no longer active; the oldest go first.
        keep_model_seconds: that an idle worker keeps the last job's model, on its device and in
            memory.
        crashes: of the model's process in one job without a finished section in between, after
            which the job fails.
        restarts: the same for ends that are not the model's fault (everything was killed).
    """

    upload_bytes: int = 50 * MB
    pixels: int = 60 * 10**6
    video_pixels: int = 2048 * 2048
    seconds: int | float = 120
    frames: int = 7200
    steps: int = 200
    queue_length: int = 1000
    jobs_per_owner: int = 500
    disk_free_bytes: int = 1 * GB
    keep_sessions_days: int | float = 7
    keep_sessions_bytes: int = 20 * GB
    keep_model_seconds: int | float = 300
    crashes: int = 3
    restarts: int = 25

    def __post_init__(self) -> None:
        """Refuse negative limits.

        Raises:
            InputError: naming the limit.
        """
        _check(vars(self))

    def to_text(self) -> str:
        """As JSON, for the worker's command line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Limits:
        """Some limits by name, the others as they are by default.

        Raises:
            InputError: an unknown name, or not a number.
        """
        known = {spec.name for spec in fields(Limits)}
        for name in values:
            if name not in known:
                raise InputError(f"{str(name)[:60]!r} is no limit; there are {', '.join(known)}")
        _check(values)
        return Limits(**values)

    def reserve(self, disk_bytes: int) -> int:
        """Bytes that are kept free on a disk of that size."""
        return min(self.disk_free_bytes, disk_bytes // 10)

    def check_upload(self, size: int, name: str = "picture") -> None:
        """Raise LimitError for a file that is too large."""
        if size > self.upload_bytes:
            raise LimitError(
                "upload_too_large",
                f"{name}: {size / MB:.1f} MB; at most {self.upload_bytes / MB:g} MB are taken",
                size=f"{size / MB:.1f}",
                most=f"{self.upload_bytes / MB:g}",
            )

    def check_request(self, request: GenerationRequest, picture: tuple[int, int]) -> None:
        """Raise for a video that this queue does not make.

        Args:
            picture: (height, width) of the start picture, pixels.

        Raises:
            LimitError: too long, too large, too many steps.
            RequestError: a model that is not known, a size that no video can have.
        """
        filled = resolved(request, spec_of(request))
        assert filled.size is not None
        assert filled.fps is not None
        assert filled.steps is not None
        if request.seconds > self.seconds:
            raise LimitError(
                "too_long",
                f"seconds: {request.seconds:g}; at most {self.seconds:g} are made here",
                seconds=f"{request.seconds:g}",
                most=f"{self.seconds:g}",
            )
        frames = request.seconds * filled.fps
        if frames > self.frames:
            raise LimitError(
                "too_long",
                f"seconds: {request.seconds:g} at {filled.fps:g} frames a second are "
                f"{frames:.0f} frames; at most {self.frames} are made here",
                seconds=f"{request.seconds:g}",
                most=f"{self.frames / filled.fps:g}",
            )
        if filled.steps > self.steps:
            raise LimitError(
                "too_many_steps",
                f"steps: {filled.steps}; at most {self.steps} are taken here",
                steps=filled.steps,
                most=self.steps,
            )
        height, width = video_size(filled.size, picture)
        if height * width > self.video_pixels:
            raise LimitError(
                "video_too_large",
                f"size: {width}x{height} is {height * width / 1e6:.1f} megapixels; "
                f"at most {self.video_pixels / 1e6:.1f} are made here",
                size=f"{width}x{height}",
                most=f"{self.video_pixels / 1e6:.1f}",
            )

    def check_room(self, waiting: int, own: int, owner: str) -> None:
        """Raise LimitError when the queue, or one owner's part of it, is full.

        Args:
            waiting: active jobs of everybody.
            own: active jobs of ``owner``.
        """
        if waiting >= self.queue_length:
            raise LimitError(
                "queue_full",
                f"the queue is full ({waiting} jobs); try again when some are done",
                jobs=waiting,
            )
        if own >= self.jobs_per_owner:
            whose = "this key has" if owner else "there are"
            raise LimitError(
                "too_many_jobs",
                f"{whose} {own} jobs in the queue; at most {self.jobs_per_owner} at a time",
                jobs=own,
                most=self.jobs_per_owner,
            )


def _check(values: Mapping[str, Any]) -> None:
    whole = {spec.name for spec in fields(Limits) if spec.type == "int"}
    for name, value in values.items():
        number = type(value) is int if name in whole else type(value) in (int, float)
        if not number or not value >= 0:
            raise InputError(f"limit {name}: {str(value)[:40]!r} is not a number from 0")
