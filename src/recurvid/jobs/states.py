"""What a job is, and the states it can honestly be in. No torch: the web process reads this.

::

    queued ──> running ──> done
      ^  ^        │ ├────> failed ───┐
      │  │        │ └────> cancelled ┤   (queued and interrupted jobs are cancelled at once)
      │  │        v                  │
      │  │   interrupted             │   its process died or was stopped: claimed again by itself,
      │  │        └──> running       │   to the same bits
      │  └───────────────────────────┘   resumed by the user
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from recurvid.errors import InputError
from recurvid.generation.local import EXACT_STEPS
from recurvid.generation.request import GenerationRequest

#: More than any section has.
MOST_EXACT_STEPS = 1000


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DONE = "done"

    @property
    def waits(self) -> bool:
        """Whether a worker will take it by itself."""
        return self in (JobState.QUEUED, JobState.INTERRUPTED)

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs; what is not active stays as it is until somebody asks."""
        return self.waits or self is JobState.RUNNING


WAITING = (JobState.INTERRUPTED, JobState.QUEUED)
ACTIVE = (*WAITING, JobState.RUNNING)


@dataclass(frozen=True)
class HowToRun:
    """How this machine runs a job; chosen by its user, never read out of a stranger's file.

    Names are checked where they are used (``generation.runtime``), so that this needs no torch.

    Attributes:
        device, dtype: "auto" leaves the choice to the worker and the model.
        vram: GiB of device memory to keep to; None for what is free.
        attention, weights, compiled, exact_steps, sparse: how the backbone runs; see Runtime.
        metadata: whether the request is embedded in the video.
    """

    device: str = "auto"
    dtype: str = "auto"
    vram: int | float | None = None
    attention: str = "auto"
    weights: str = "auto"
    compiled: bool = False
    exact_steps: int = EXACT_STEPS
    sparse: str = "none"
    metadata: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be a choice at all.

        Raises:
            InputError: naming the field.
        """
        _check_how(vars(self))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> HowToRun:
        """Read what :meth:`to_json` wrote.

        Raises:
            InputError: an unknown field or a wrong value.
        """
        known = {spec.name for spec in fields(HowToRun)}
        for name in values:
            if name not in known:
                raise InputError(f"{str(name)[:60]!r} is no choice of how to run", "how.unknown")
        _check_how(values)
        return HowToRun(**values)


def _check_how(values: Mapping[str, Any]) -> None:
    for name in ("device", "dtype", "attention", "weights", "sparse"):
        value = values.get(name, "auto")
        if not isinstance(value, str) or not 0 < len(value) <= 40 or not value.isprintable():
            raise _no_choice(name, value, "a name")
    vram, exact = values.get("vram"), values.get("exact_steps", EXACT_STEPS)
    if vram is not None and not (type(vram) in (int, float) and 0 < vram < math.inf):
        raise _no_choice("vram", vram, "a positive number of GiB")
    if type(exact) is not int or not 0 <= exact <= MOST_EXACT_STEPS:
        raise _no_choice("exact_steps", exact, f"a whole number from 0 to {MOST_EXACT_STEPS}")
    for name in ("compiled", "metadata"):
        if not isinstance(value := values.get(name, False), bool):
            raise _no_choice(name, value, "true or false")


def _no_choice(name: str, value: object, wanted: str) -> InputError:
    said = str(value)[:40]
    return InputError(f"{name}: {said!r} is not {wanted}", "how.choice", how=name, value=said)


@dataclass(frozen=True)
class JobProgress:
    """How far a job is.

    Attributes:
        phase: "" before it began, then "load", "encode", "denoise", "decode" or "write".
        section: 0-based in the order of generation, None outside sections.
        sections: how many there are, None before planning.
        step, steps: of the phase.
        frames: finished so far, pixels on disk.
        provisional: others that the video so far shows, until theirs are finished.
        total_frames: of the result.
        seconds_left: estimated from measured steps; None while there is nothing to measure.
        done_sections: numbers of the finished ones.
    """

    phase: str = ""
    section: int | None = None
    sections: int | None = None
    step: int = 0
    steps: int = 0
    frames: int = 0
    total_frames: int | None = None
    seconds_left: float | None = None
    done_sections: tuple[int, ...] = ()
    provisional: int = 0

    @property
    def fraction(self) -> float:
        """Of the sections' work, 0 to 1."""
        if not self.sections:
            return 0.0
        inside = self.step / self.steps if self.phase == "denoise" and self.steps else 0.0
        return min(1.0, (len(self.done_sections) + 0.95 * inside) / self.sections)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_text(text: str) -> JobProgress:
        """Read what the store keeps."""
        values = json.loads(text)
        values["done_sections"] = tuple(values["done_sections"])
        return JobProgress(**values)


@dataclass(frozen=True)
class SectionSpan:
    """Which pixel frames ``[start, stop)`` a section makes; the list is in order of generation."""

    start: int
    stop: int


@dataclass(frozen=True)
class JobPlan:
    """What is made, known shortly after a job began.

    Attributes:
        spans: of the sections, in order of generation (the inverted order's first is the end).
            The last in time may reach beyond ``frames``: the result is trimmed.
    """

    width: int
    height: int
    fps: float
    frames: int
    order: str = ""
    spans: tuple[SectionSpan, ...] = ()

    @property
    def seconds(self) -> float:
        """Length of the result."""
        return self.frames / self.fps

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"spans": [[span.start, span.stop] for span in self.spans]}

    @staticmethod
    def from_text(text: str) -> JobPlan:
        """Read what the store keeps."""
        values = json.loads(text)
        values["spans"] = tuple(SectionSpan(*span) for span in values["spans"])
        return JobPlan(**values)


@dataclass(frozen=True)
class Job:
    """One video that was asked for.

    Attributes:
        id: "video_" and 32 hexadecimal digits.
        owner: "" where no key is needed; else derived from the key, never the key.
        title: for display only.
        position: order in the queue.
        created_at, started_at, finished_at: Unix seconds. ``started_at`` is of the first run.
        plan: None before it is planned.
        has_end_picture: whether it ends at a given picture.
        error_code, error: why it failed, or why it waits; one line without server paths.
        cancelling: whether it was asked to stop and has not yet.
        attempts: how often a worker took it.
        revision: grows with every change.
    """

    id: str
    owner: str
    state: JobState
    request: GenerationRequest
    how: HowToRun
    title: str
    position: float
    created_at: float
    started_at: float | None
    finished_at: float | None
    progress: JobProgress
    plan: JobPlan | None
    has_end_picture: bool
    error_code: str | None
    error: str | None
    cancelling: bool
    attempts: int
    revision: int

    @property
    def width(self) -> int | None:
        """Pixels, once planned."""
        return self.plan.width if self.plan else None

    @property
    def height(self) -> int | None:
        """Pixels, once planned."""
        return self.plan.height if self.plan else None

    @property
    def fps(self) -> float | None:
        """Frames a second, once planned."""
        return self.plan.fps if self.plan else None

    @property
    def seconds(self) -> float | None:
        """True length, once planned."""
        return self.plan.seconds if self.plan else None


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job.

    Attributes:
        number: grows; gaps mean nothing (superseded progress is dropped).
        kind: "state" (data: state, position, error_code, error, cancelling, revision; state
            "deleted" when it is gone), "planned" (JobPlan), "progress" (JobProgress), "preview"
            (section, step, steps), "section" (section, sections, frames, provisional) or
            "finished".
        at: Unix seconds.
    """

    number: int
    job_id: str
    kind: str
    data: dict[str, Any]
    at: float


@dataclass(frozen=True)
class QueueState:
    """Whether jobs are taken at this moment, and if not, why, in one line.

    Attributes:
        notices: what is not as it should be while jobs are taken all the same: a device whose
            worker cannot start, beside others that work. One line each.
    """

    paused: bool
    reason: str | None = None
    notices: tuple[str, ...] = ()
