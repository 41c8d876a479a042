"""Whether a session has its result. No torch: resuming a finished session answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recurvid.errors import SessionError
from recurvid.generation.journal import Journal
from recurvid.video.destination import Destination, destination

WRITING, FINISHED = "writing.json", "finished.json"


@dataclass(frozen=True)
class FinishedVideo:
    """A result on disk: its file (of PNG frames the folder), how many frames at what rate."""

    path: Path
    frames: int
    fps: float


def finished_video(journal: Journal) -> FinishedVideo | None:
    """The result of a finished session; None when it is not finished or its file is gone."""
    output = journal.local.output
    place = destination(output)
    if not marked(journal, FINISHED, output) or not stands(place):
        return None
    values = journal.read_json(FINISHED)
    frames: Any = values.get("frames")
    fps: Any = values.get("fps")
    if not (_is_positive(frames) and _is_positive(fps) and float(frames).is_integer()):
        raise SessionError(
            f"{journal.folder / FINISHED} does not say how long the video is; delete it and "
            "resume: it is made again"
        )
    return FinishedVideo(result_path(place), int(frames), float(fps))


def result_path(place: Destination) -> Path:
    """What a user opens: the file, of PNG frames their folder."""
    return place.path.parent if place.kind == "png" else place.path


def stands(place: Destination) -> bool:
    """Whether something is there."""
    return bool(place.frames_there()) if place.kind == "png" else place.path.exists()


def marked(journal: Journal, name: str, output: str) -> bool:
    """Whether the session has noted that it writes, or has written, its result to ``output``."""
    return journal.has(name) and journal.read_json(name).get("output") == output


def stamp(place: Destination) -> str | None:
    """What stands at a place, so that another file there can be told from it; None for nothing."""
    if place.kind == "png":
        found = [path.stat() for path in place.frames_there()]
    else:
        found = [place.path.stat()] if place.path.exists() else []
    if not found:
        return None
    size, newest = sum(stat.st_size for stat in found), max(stat.st_mtime_ns for stat in found)
    return f"{len(found)} of {size} bytes at {newest}"


def half_written(journal: Journal, output: str) -> bool:
    """Whether what stands at ``output`` is what this session was replacing, or its own result.

    Of PNG frames, which appear one by one, the intention alone counts.
    """
    if not marked(journal, WRITING, output):
        return False
    place = destination(output)
    now, mark = stamp(place), journal.read_json(WRITING)
    return place.kind == "png" or now is None or now in (mark.get("before"), mark.get("made"))


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9
