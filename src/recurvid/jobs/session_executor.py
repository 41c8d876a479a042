"""The executor that runs a session in this process. Imported by the worker only: needs torch."""

from __future__ import annotations

import gc
import io
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from recurvid.events import Event, Finished, Preview, Progress, SectionDone
from recurvid.events import Planned as SessionPlanned
from recurvid.generation.journal import Journal
from recurvid.generation.kept import KeptModel
from recurvid.generation.local import Local
from recurvid.generation.opening import open_session
from recurvid.generation.session import GenerationSession
from recurvid.jobs.executor import Executor, Looked, Made, Planned, Report, SectionMade, Stepped
from recurvid.jobs.hardware import hardware_of
from recurvid.jobs.states import Job, JobPlan, SectionSpan

#: A look may take this part of the time; so the next one comes the later, the longer one took.
_SHARE = 0.01
_LEAST_SECONDS = 0.4


def make(device: str) -> Executor:
    """The executor of a worker for ``device``."""
    return SessionExecutor(device)


class SessionExecutor:
    """Runs sessions on one device, and keeps the last one's model for the next.

    Args:
        device: of jobs that leave it to the worker.
    """

    def __init__(self, device: str):
        self.device = device
        self._kept = KeptModel()

    def hardware(self, device: str) -> str:
        """See Executor."""
        return hardware_of(device)

    def run(self, job: Job, folder: Path) -> Generator[Report]:
        """See Executor."""
        try:
            if self._kept.is_empty:  # whatever a failed job has left, the plan finds it gone
                _free()
            session = open_session(self._journal(job, folder), previews=True, kept=self._kept)
            looks = Looks(session)
            try:
                yield Planned(job_plan(session))
                with closing(session.run()) as events:
                    for event in events:
                        report = _report(event, session, looks)
                        if report is not None:
                            yield report
            except GeneratorExit:  # cancelled, or the worker leaves
                self._kept.keep(session.components)
                raise
            self._kept.keep(session.components)
            del session, looks, events
        finally:
            _free()

    def rest(self) -> None:
        """See Executor."""
        self._kept.drop()
        # A job that failed left its model in cycles that its own trace still held when it ended.
        _free()

    def _journal(self, job: Job, folder: Path) -> Journal:
        """The session of a job, begun or gone on with."""
        how = job.how
        local = Local(
            output=str((folder / "video.mp4").absolute()),
            offline=True,  # a job from the network never fetches anything
            device=self.device if how.device == "auto" else how.device,
            dtype=how.dtype,
            vram=None if how.vram is None else float(how.vram),
            attention=how.attention,
            weights=how.weights,
            compiled=how.compiled,
            exact_steps=how.exact_steps,
            sparse=how.sparse,
            metadata=how.metadata,
        )
        session = folder / "session"
        if (session / "request.json").is_file():
            journal = Journal.open(session)
            if journal.local != local:  # the home was moved, or another worker goes on
                journal.write_local(local)
            return journal
        end = folder / "end_picture.png" if job.has_end_picture else None
        session.mkdir(mode=0o700, exist_ok=True)
        return Journal.create(session, job.request, local, folder / "picture.png", end)


def job_plan(session: GenerationSession) -> JobPlan:
    """What a page draws before the first step."""
    plan, geometry = session.plan, session.components.geometry
    pixels = [geometry.pixel_range(section.target) for section in plan.sections.sections]
    spans = [SectionSpan(frames.start, frames.stop) for frames in pixels]
    return JobPlan(
        plan.width, plan.height, plan.fps, plan.frames, plan.sections.order, tuple(spans)
    )


class Looks:
    """Previews as small animations, as often as their cost allows."""

    def __init__(self, session: GenerationSession):
        stride = session.components.geometry.temporal_stride
        self._milliseconds = max(20, round(1000 * stride / session.plan.fps))
        self._next = 0.0

    def of(self, event: Preview) -> Looked | None:
        """The report of a preview, None when it comes too soon after the last."""
        begun = time.monotonic()
        if begun < self._next:
            return None
        picture = animation(event.frames, self._milliseconds)
        ended = time.monotonic()
        self._next = ended + max(_LEAST_SECONDS, (ended - begun) / _SHARE)
        return Looked(event.section, event.step, picture)


def animation(frames: Tensor, milliseconds: int) -> bytes:
    """Pictures (t, h, w, 3) uint8 as an animated WEBP, each shown for ``milliseconds``."""
    first, *others = [Image.fromarray(frame) for frame in frames.numpy()]
    file = io.BytesIO()
    first.save(
        file,
        format="WEBP",
        save_all=True,
        append_images=others,
        duration=milliseconds,
        loop=0,
        quality=70,
        method=0,
    )
    return file.getvalue()


def _report(event: Event, session: GenerationSession, looks: Looks) -> Report | None:
    match event:
        case Progress(phase, section, step, steps):
            return Stepped(phase, section, step, steps)
        case Preview():
            return looks.of(event)
        case SectionDone():
            frames = min(event.frames, session.plan.frames)
            return SectionMade(event.section, event.sections, frames, event.provisional)
        case Finished():
            return Made(event.frames)
        case SessionPlanned():
            return None  # said already, with more in it


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
