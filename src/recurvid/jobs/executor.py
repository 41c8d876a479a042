"""The seam between a claimed job and whatever makes its video.

A worker hands an executor a job and its folder, reads reports, and closes the generator to stop.
Nothing here needs torch or SQLite, so an executor that sends the work to another machine can
take the place of the one that runs it here: it yields the same reports and leaves the same file.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from recurvid.errors import InputError
from recurvid.jobs.states import Job, JobPlan

HERE = "recurvid.jobs.session_executor:make"


@dataclass(frozen=True)
class Planned:
    """What will be made; said first, before anything heavy starts."""

    plan: JobPlan


@dataclass(frozen=True)
class Stepped:
    """A step of work is finished; see ``recurvid.events.Progress``."""

    phase: str
    section: int | None
    step: int
    steps: int


@dataclass(frozen=True)
class Looked:
    """A rough look at a section in the making.

    Attributes:
        picture: an animated WEBP.
    """

    section: int
    step: int
    picture: bytes


@dataclass(frozen=True)
class SectionMade:
    """A section is durable; ``session/so_far.mp4`` shows it.

    Attributes:
        frames: of the result, that it has.
        provisional: others in it, to look at until theirs are final.
    """

    section: int
    sections: int
    frames: int
    provisional: int = 0


@dataclass(frozen=True)
class Made:
    """The video is durable at ``video.mp4`` in the job's folder."""

    frames: int


Report = Planned | Stepped | Looked | SectionMade | Made


@runtime_checkable
class Executor(Protocol):
    """Makes the video of one job at a time."""

    def hardware(self, device: str) -> str:
        """What is behind a device's name: one word for one thing, whatever it is called.

        Two workers of one home never work on the same.

        Raises:
            RecurVidError: there is no such device here.
        """
        ...

    def run(self, job: Job, folder: Path) -> Generator[Report]:
        """Do what is left to do, from wherever an earlier run of the job stopped.

        The work so far lies in ``folder / "session"``; the start picture is
        ``folder / "picture.png"``, an end picture ``folder / "end_picture.png"``. What a report
        speaks of is durable before it is yielded. Closing the generator stops after the present
        step and keeps what is there. Run again for the same folder, it makes the same bits as a
        run that was never stopped, and no finished section again.

        Raises:
            RecurVidError: the job cannot be done; one line for its user. It fails.
            OSError: with ENOSPC or EDQUOT it waits for room and goes on; others fail it.
        """
        ...

    def rest(self) -> None:
        """Give up what is kept for the next job only; there has been none for a while."""
        ...


MakeExecutor = Callable[[str], Executor]
"""A worker's device ("auto" included) -> its executor. Called once in a process."""


def load_executor(name: str, device: str) -> Executor:
    """The executor of a ``module:function`` that the server's own configuration names.

    Raises:
        InputError: no such function.
    """
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"executor {name!r} cannot be loaded: {error}") from error
    return cast(MakeExecutor, make)(device)
