"""Result: the video so far, and the finished file where the user asked for it."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from recurvid import __version__, durable
from recurvid.errors import OutputError
from recurvid.generation.advice import resume_command
from recurvid.generation.finished import (
    FINISHED,
    WRITING,
    finished_video,
    half_written,
    result_path,
    stamp,
    stands,
)
from recurvid.generation.journal import Journal, Segment
from recurvid.generation.so_far import SoFar, frames_in, join_so_far
from recurvid.generation.video_plan import VideoPlan
from recurvid.video.buckets import center_crop_resize
from recurvid.video.destination import Destination, check_output, destination
from recurvid.video.encoders import VideoSettings
from recurvid.video.finish import finish
from recurvid.video.pictures import load_picture
from recurvid.video.writer import SegmentWriter


class Result:
    """Where the segments of a session become one file.

    Args:
        settings: of the finished video.
    """

    def __init__(self, journal: Journal, plan: VideoPlan, settings: VideoSettings):
        self._journal = journal
        self._plan = plan
        self._settings = settings
        self._local = journal.local
        self._place = destination(self._local.output)

    @property
    def path(self) -> Path:
        """The finished file; of PNG frames their folder."""
        return result_path(self._place)

    @property
    def so_far(self) -> Path:
        """The video so far, inside the session folder."""
        return self._journal.folder / "so_far.mp4"

    @property
    def segment_settings(self) -> VideoSettings:
        """Settings of the segments that the result is made from."""
        return self._place.segment_settings(self._settings)

    def write_so_far(self) -> SoFar:
        """Join the frames that are there, final ones and others; returns their numbers.

        While there are none of the result, frames beyond its end stand in, and before them the
        start picture.
        """
        shown = sorted(self._kept() + self._journal.provisional(), key=lambda s: s.frames.start)
        segments = shown or self._journal.segments()
        if segments:
            try:
                joined = join_so_far(segments, self.so_far)
                return joined if shown else SoFar(0, joined.final)
            except OutputError as error:
                # A player on Windows that shows the file keeps it; the next section tries again.
                if not (isinstance(error.__cause__, PermissionError) and self.so_far.is_file()):
                    raise
                return frames_in(self.so_far)
        picture = load_picture(self._journal.picture)
        still = center_crop_resize(picture, self._plan.height, self._plan.width)
        with SegmentWriter(self.so_far, self.segment_settings) as writer:
            writer.write(still[None])
        return SoFar(0, 1)

    def is_written(self) -> bool:
        """Whether the finished video stands where it was asked for."""
        return finished_video(self._journal) is not None

    def probe(self) -> None:
        """Fail now if the result could not be written later.

        Raises:
            OutputError: no such folder, not writable, a file in the way, an unknown ending.
            ComponentError: no encoder for it.
        """
        check_output(
            self._local.output,
            self._settings,
            self._plan.height,
            self._plan.width,
            overwrite=self._may_replace(),
        )

    def write(self) -> None:
        """Write the result and then the mark that the session is finished.

        Raises:
            OutputError: another file came to stand there meanwhile, or the disk is full. Segments
                stay, so that ``resume`` can write the result elsewhere in a moment.
        """
        if stands(self._place) and not self._may_replace():
            raise OutputError(
                f"output {self._local.output!r} came to exist meanwhile; put the video elsewhere "
                f"with: {resume_command(self._journal.folder)} --out FILE"
            )
        try:
            self._deliver()
        except OSError as error:
            raise OutputError(
                f"cannot write {self._local.output}: {error.strerror or error}; put the video "
                f"elsewhere with: {resume_command(self._journal.folder)} --out FILE"
            ) from error
        self._journal.write_json(
            FINISHED,
            {
                "output": self._local.output,
                "frames": self._plan.frames,
                "fps": self._plan.fps,
                "seconds": self._plan.frames / self._plan.fps,
            },
        )

    def _deliver(self) -> None:
        """Make the file in the session folder and let it appear, whole, where it was asked for.

        Beside the result it has a name that only this session uses: what a kill leaves there is
        taken over by the next attempt, and no stray file stays in the user's folder.
        """
        if self._place.kind == "png":
            self._mark(None)
            if self._place.path.parent.is_dir():
                durable.sweep(self._place.path.parent)
            self._finish(self._place)
            return
        target = self._place.path.resolve()
        made = self._journal.folder / f"result{target.suffix}"
        self._finish(Destination(self._place.kind, made))
        owner = hashlib.sha256(str(self._journal.folder).encode()).hexdigest()[:12]
        beside = target.with_name(f".recurvid-{owner}.partial{target.suffix}")
        beside.unlink(missing_ok=True)
        try:
            os.link(made, beside)
        except OSError:  # another disk, or one without hard links
            shutil.copyfile(made, beside)
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
        self._mark(stamp(Destination(self._place.kind, beside)))
        durable.replace(beside, target)
        durable.sync_folder(target.parent)
        made.unlink()

    def _mark(self, made: str | None) -> None:
        """From here on what stands there may be ours: a run killed in between writes it again."""
        mark = {"output": self._local.output, "before": stamp(self._place), "made": made}
        self._journal.write_json(WRITING, mark)

    def _finish(self, place: Destination) -> None:
        paths = [segment.path for segment in self._kept()]
        finish(paths, place, self._settings, metadata=self._metadata())

    def _kept(self) -> list[Segment]:
        """Segments of the result in timeline order."""
        return [s for s in self._journal.segments() if s.frames.stop <= self._plan.frames]

    def _metadata(self) -> dict[str, Any] | None:
        """What is embedded: the request with every default filled in. No paths."""
        if not self._local.metadata:
            return None
        return {"version": __version__, "request": self._plan.request.to_json()}

    def _may_replace(self) -> bool:
        return self._local.overwrite or half_written(self._journal, self._local.output)
