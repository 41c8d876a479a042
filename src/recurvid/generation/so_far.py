"""The video so far: one file, made again after each section out of the one before and what is new.

Opening a segment costs 10 ms, copying its packets next to nothing. So what the file holds already
is copied out of it in long runs, and only new segments are opened: 0.15 s for two minutes of
480x832, where joining its 100 segments takes 2 s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from recurvid import durable
from recurvid.generation.journal import Segment
from recurvid.video.assembly import Part, concatenate


def join_so_far(segments: Sequence[Segment], video: Path) -> int:
    """Make ``video`` the segments in the order given; returns the number of frames.

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
    frames = concatenate(parts, video)
    held = [[name, len(segment.frames)] for name, segment in zip(names, segments, strict=True)]
    with suppress(OSError):  # the next join then opens all segments again
        durable.write_json(note, {"video": _stamp(video), "segments": held})
    return frames


def frames_in(video: Path) -> int:
    """How many frames a video has that :func:`join_so_far` made; 0 where nobody knows."""
    return sum(len(run) for run in _noted(video.with_suffix(".json"), video).values())


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
