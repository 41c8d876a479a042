"""The video so far: one file, made again after each section out of the one before and what is new.

Opening a segment costs 10 ms, copying its packets next to nothing. So what the file holds already
is copied out of it in long runs, and only new segments are opened: 0.15 s for two minutes of
480x832, where joining its 100 segments takes 2 s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recurvid import durable
from recurvid.generation.journal import PROVISIONAL, Segment
from recurvid.video.assembly import Part, concatenate


@dataclass(frozen=True)
class SoFar:
    """How many frames the video so far has: ``final`` ones of the result, and others."""

    final: int
    provisional: int

    @staticmethod
    def of(segments: Sequence[tuple[str, int]]) -> SoFar:
        """From names and lengths of segments."""
        others = sum(length for name, length in segments if PROVISIONAL in name)
        return SoFar(sum(length for _, length in segments) - others, others)


def join_so_far(segments: Sequence[Segment], video: Path) -> SoFar:
    """Make ``video`` the segments in the order given; returns how many frames it has.

    Beside it ``….json`` notes what it holds. A note that does not belong to the file, after a kill
    between the two or by whatever accident, is of no consequence: all segments are opened then.

    Raises:
        SessionError, OutputError: as ``concatenate``.
    """
    note = video.with_suffix(".json")
    names = [_stamp(segment.path) for segment in segments]
    there = _noted(note, video)
    parts: list[Part] = []
    for segment, name in zip(segments, names, strict=True):
        # The first is opened in any case: its head becomes the head of the whole.
        run = there.get(name) if parts else None
        if run is None or len(run) != len(segment.frames):
            parts.append(Part(segment.path))
        elif parts and (before := parts[-1].packets) is not None and before.stop == run.start:
            parts[-1] = Part(video, range(before.start, run.stop))
        else:
            parts.append(Part(video, run))
    concatenate(parts, video)
    held = [[name, len(segment.frames)] for name, segment in zip(names, segments, strict=True)]
    with suppress(OSError):  # the next join then opens all segments again
        durable.write_json(note, {"video": _stamp(video), "segments": held})
    return SoFar.of([(segment.path.name, len(segment.frames)) for segment in segments])


def frames_in(video: Path) -> SoFar:
    """What a video holds that :func:`join_so_far` made; nothing where nobody knows."""
    noted = _noted(video.with_suffix(".json"), video)
    return SoFar.of([(name, len(run)) for name, run in noted.items()])


def _noted(note: Path, video: Path) -> dict[str, range]:
    """Stamp of a segment -> its packets in the video, as far as that can be relied upon."""
    if not note.is_file():  # a named pipe would block for good
        return {}
    try:
        values: Any = json.loads(note.read_text("utf-8"))
        if values["video"] != _stamp(video):
            return {}
        found: dict[str, range] = {}
        start = 0
        for name, length in values["segments"]:
            found[str(name)] = range(start, start := start + int(length))
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return {}
    return found


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{path.name} {stat.st_size} {stat.st_mtime_ns}"
