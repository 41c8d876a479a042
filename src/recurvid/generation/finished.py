"""Whether a session has its result. No torch: resuming a finished session answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    return FinishedVideo(result_path(place), int(values["frames"]), float(values["fps"]))


def result_path(place: Destination) -> Path:
    """What a user opens: the file, of PNG frames their folder."""
    return place.path.parent if place.kind == "png" else place.path


def stands(place: Destination) -> bool:
    """Whether something is there."""
    return bool(place.frames_there()) if place.kind == "png" else place.path.exists()


def marked(journal: Journal, name: str, output: str) -> bool:
    """Whether the session has noted that it writes, or has written, its result to ``output``."""
    return journal.has(name) and journal.read_json(name).get("output") == output
