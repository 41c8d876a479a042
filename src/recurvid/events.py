"""What a running session yields. Whoever shows them imports nothing else from below."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Planned:
    """Said before anything heavy starts."""

    sections: int
    frames: int
    fps: float
    height: int
    width: int


@dataclass(frozen=True)
class Progress:
    """A step of work was finished.

    Attributes:
        phase: "load", "encode", "denoise", "decode" or "write".
        section: 0-based in the order of generation, or None outside sections.
        step, steps: finished and total steps of the phase.
    """

    phase: str
    section: int | None
    step: int
    steps: int


@dataclass(frozen=True)
class Preview:
    """A rough look at a section in the making: (t, h, w, 3) uint8 on the CPU."""

    section: int
    step: int
    frames: Tensor


@dataclass(frozen=True)
class SectionDone:
    """A section is on disk and the video so far is one playable file.

    Attributes:
        frames: of the result, as they will stay, that ``video`` holds.
        provisional: others in ``video``, to look at until theirs are final.
    """

    section: int
    sections: int
    video: Path
    frames: int
    provisional: int = 0


@dataclass(frozen=True)
class Finished:
    """The whole video is on disk."""

    video: Path
    frames: int
    fps: float


Event = Planned | Progress | Preview | SectionDone | Finished
