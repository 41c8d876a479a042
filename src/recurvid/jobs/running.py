"""One claimed job, from its first report to its last."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing
from dataclasses import replace
from enum import Enum, auto
from pathlib import Path

from recurvid.durable import write_passing
from recurvid.errors import RecurVidError
from recurvid.jobs.claims import Claim, Claims
from recurvid.jobs.estimate import Estimate
from recurvid.jobs.executor import Executor, Looked, Made, Planned, Report, SectionMade, Stepped
from recurvid.jobs.failures import disk_is_full
from recurvid.jobs.posters import make_posters

#: Progress is written at most this often, and takes at most this part of the time.
_LEAST_SECONDS = 0.2
_SHARE = 0.005

logger = logging.getLogger(__name__)


class Outcome(Enum):
    """How a run of a job ended."""

    DONE = auto()
    STOPPED = auto()
    DISK_FULL = auto()


class JobRun:
    """Runs an executor for one claim and writes down what it reports.

    Args:
        stop: set when the worker should leave.
    """

    def __init__(self, claims: Claims, claim: Claim, stop: threading.Event):
        self._claims, self._claim, self._stop = claims, claim, stop
        self._folder = claims.store.folders.of(claim.id)
        self._progress = replace(claim.job.progress, seconds_left=None)
        self._estimate: Estimate | None = None
        self._next_write = 0.0
        self._asked_to_stop = False
        self._made = False

    def run(self, executor: Executor) -> Outcome:
        """To the end, or until it should stop; then the executor is closed after its step.

        Raises:
            StaleClaimError: the job is another worker's by now.
            Exception: what the executor raises.
        """
        with closing(executor.run(self._claim.job, self._folder)) as reports:
            for report in reports:
                self._take_in(report)
                if self._made:
                    break
                if self._asked_to_stop or self._stop.is_set():
                    return Outcome.STOPPED
                if isinstance(report, SectionMade) and self._claims.store.out_of_disk():
                    return Outcome.DISK_FULL
        if not self._made:
            raise RuntimeError("the executor ended without a video")
        self._finish()
        return Outcome.DONE

    def _take_in(self, report: Report) -> None:
        now = time.monotonic()
        match report:
            case Planned(plan):
                sections = len(plan.spans) or None
                self._progress = replace(
                    self._progress, sections=sections, total_frames=plan.frames
                )
                self._claims.planned(self._claim, plan)
                done = len(self._progress.done_sections)
                self._estimate = Estimate(len(plan.spans), done)
            case Stepped(phase, section, step, steps):
                if self._estimate is not None:
                    self._estimate.step(phase, step, steps, now)
                self._progress = replace(
                    self._progress, phase=phase, section=section, step=step, steps=steps
                )
                self._write(now)
            case Looked(section, step, picture):
                if write_passing(self._folder / "preview.webp", picture):
                    self._write(now, "preview", section=section, step=step, always=True)
            case SectionMade():
                self._section(report, now)
            case Made(frames):
                self._progress = replace(
                    self._progress, frames=frames, total_frames=frames, provisional=0
                )
                self._made = True

    def _section(self, made: SectionMade, now: float) -> None:
        if self._estimate is not None and made.section not in self._progress.done_sections:
            self._estimate.section(now)
        done = tuple(sorted({*self._progress.done_sections, made.section}))
        there = {"sections": made.sections, "frames": made.frames, "provisional": made.provisional}
        self._progress = replace(self._progress, done_sections=done, **there)
        data = {"section": made.section, **there}
        self._write(now, "section", always=True, **data)

    def _write(
        self, now: float, kind: str = "progress", *, always: bool = False, **data: int
    ) -> None:
        if now < self._next_write and not always:
            return
        if self._estimate is not None:
            left = self._estimate.seconds_left()
            self._progress = replace(self._progress, seconds_left=left)
        if self._claims.progress(self._claim, self._progress, kind, **data):
            self._asked_to_stop = True
        cost = time.monotonic() - now
        self._next_write = now + cost + max(_LEAST_SECONDS, cost / _SHARE)

    def _finish(self) -> None:
        video = self._folder / "video.mp4"
        _posters(video, self._progress.frames)
        sections = self._progress.sections or 0
        self._progress = replace(
            self._progress,
            phase="write",
            section=None,
            step=1,
            steps=1,
            seconds_left=0.0,
            done_sections=tuple(range(sections)),
        )
        self._claims.done(self._claim, self._progress)
        (self._folder / "preview.webp").unlink(missing_ok=True)


def _posters(video: Path, frames: int) -> None:
    try:
        make_posters(video, frames)
    except (OSError, RecurVidError) as error:
        if disk_is_full(error):
            return  # the video is there, which is what counts
        logger.warning("no still pictures of %s: %s", video, error)
