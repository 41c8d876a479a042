"""Latents of sections -> finished segments of video, each frame encoded once."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from recurvid import durable
from recurvid.generation.journal import PROVISIONAL, Journal, Segment
from recurvid.latents import LatentFrames
from recurvid.sections import Section, SectionPlan
from recurvid.vae.codec import DecodeStream, PixelFrames
from recurvid.video.encoders import VideoSettings
from recurvid.video.writer import SegmentWriter

SUFFIX = ".mp4"

#: Runs of frames that may wait for the video encoder while the next are decoded.
_WAITING = 2


class _Ahead:
    """Encodes runs in a thread, in order, while the device decodes the next."""

    def __init__(self, thread: ThreadPoolExecutor, writer: SegmentWriter):
        self._thread, self._writer = thread, writer
        self._pending: deque[Future[None]] = deque()

    def write(self, run: PixelFrames) -> None:
        """Take a run; an error of one before it is raised here."""
        while len(self._pending) >= _WAITING:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._encode, run))

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        wait(self._pending)  # whatever happened: the writer must not be closed under the thread
        for encoded in self._pending if kind is None else ():
            encoded.result()

    def _encode(self, run: PixelFrames) -> None:
        self._writer.write(run.uint8().numpy())


class SegmentRecorder:
    """Writes the frames that a decode stream finishes into the journal's segments.

    Args:
        frames: of the result. Frames that the timeline has beyond them become segments only while
            there are no others: something to look at, and no part of the result.
    """

    def __init__(
        self, journal: Journal, stream: DecodeStream, settings: VideoSettings, frames: int
    ):
        self._begun = any(segment.frames.stop <= frames for segment in journal.segments())
        self._journal = journal
        self._stream = stream
        self._settings = settings
        self._frames = frames

    def add(self, section: int, latents: LatentFrames) -> Iterator[Segment]:
        """Decode what becomes final with these latents; yields each segment once it is on disk.

        Runs that touch become one segment, so where a segment begins and ends depends on the plan
        alone, and not on where a session was interrupted.
        """
        return self._record(section, self._split(self._stream.push(latents)), SUFFIX)

    def show(self, section: int) -> int:
        """Make frames of the result that still wait, to look at; returns the number of segments.

        To be called when all segments of ``add`` have been taken. Those of earlier calls stay while
        none of their frames is final.
        """
        self._journal.drop_replaced()
        shown = [segment.frames for segment in self._journal.provisional()]
        runs = self._inside(self._stream.provisional(shown))
        return sum(1 for _ in self._record(section, runs, PROVISIONAL + SUFFIX))

    def _record(self, section: int, runs: Iterator[PixelFrames], suffix: str) -> Iterator[Segment]:
        run = next(runs, None)
        with ThreadPoolExecutor(1, thread_name_prefix="recurvid-encode") as thread:
            while run is not None:
                start = stop = run.start
                with self._segment(section, suffix) as (writer, written):
                    with _Ahead(thread, writer) as ahead:
                        while run is not None and run.start == stop:
                            ahead.write(run)
                            stop = run.frames.stop
                            run = next(runs, None)
                    written.append(range(start, stop))
                path = self._journal.segment_path(section, range(start, stop), suffix)
                yield Segment(path, section, range(start, stop))

    def _split(self, runs: Iterator[PixelFrames]) -> Iterator[PixelFrames]:
        """The same runs, cut at the end of the result; beyond it only while there is no other."""
        for run in runs:
            inside = min(max(self._frames - run.start, 0), len(run.frames))
            if inside:
                self._begun = True
                yield PixelFrames(run.start, run.data[:inside])
            if inside < len(run.frames) and not self._begun:
                yield PixelFrames(run.start + inside, run.data[inside:])

    def _inside(self, runs: Iterator[PixelFrames]) -> Iterator[PixelFrames]:
        """The same runs without what lies beyond the result."""
        for run in runs:
            inside = self._frames - run.start
            if inside > 0:
                yield PixelFrames(run.start, run.data[:inside])

    @contextmanager
    def _segment(self, section: int, suffix: str) -> Generator[tuple[SegmentWriter, list[range]]]:
        # Its name holds the number of frames, which only the end of the run tells.
        beside = self._journal.video_folder / f".recurvid-{section:04d}.partial{SUFFIX}"
        written: list[range] = []
        with SegmentWriter(beside, self._settings) as writer:
            yield writer, written
        path = self._journal.segment_path(section, written[0], suffix)
        beside.replace(path)
        durable.sync_folder(path.parent)


def given_beside(plan: SectionPlan) -> dict[int, list[int]]:
    """Section number -> given timeline positions that are decoded together with it.

    A given picture joins the first section that touches it, so that its frame does not become a
    segment of its own. An end picture beyond the timeline is never decoded.
    """
    waiting = {position for position in plan.given if position < plan.latent_frames}
    beside: dict[int, list[int]] = {}
    for section in plan.sections:
        touching = sorted(waiting & _neighbours(section))
        if section is plan.sections[-1]:
            touching = sorted(waiting)
        if touching:
            beside[section.index] = touching
            waiting -= set(touching)
    return beside


def _neighbours(section: Section) -> set[int]:
    return {other for frame in section.frames for other in (frame - 1, frame + 1)}
