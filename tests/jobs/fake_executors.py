"""Executors without a model. What they do stands in the job's prompt, as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from recurvid.errors import CheckpointError, ComponentError, SessionError
from recurvid.generation.request import GenerationRequest
from recurvid.jobs.executor import Executor, Looked, Made, Planned, Report, SectionMade, Stepped
from recurvid.jobs.states import Job, JobPlan, SectionSpan

NAME = "tests.jobs.fake_executors:make"


def asks(**values: Any) -> GenerationRequest:
    """A request whose prompt says what the fake does: sections, steps, sleep, and faults."""
    return GenerationRequest(prompt=json.dumps(values), seconds=1.0, size="64")


def make(device: str) -> Executor:
    """Like ``recurvid.jobs.session_executor.make``."""
    return FakeExecutor()


class FakeExecutor:
    """Makes section files with bytes that depend on request and section only.

    Every section that is really made leaves a line in ``log``: two lines for one section mean
    that something was done again.
    """

    def hardware(self, device: str) -> str:
        """Two names of card 0, one of card 1; a device that is not here."""
        if device == "xpu":
            raise ComponentError("no xpu device here; there are cuda, cpu")
        if device == "odd":
            raise TypeError("nobody foresaw this name")
        return {"auto": "card 0", "cuda": "card 0", "cuda:0": "card 0"}.get(device, device)

    def rest(self) -> None:
        """There is nothing to give up."""

    def run(self, job: Job, folder: Path) -> Generator[Report]:
        asked = json.loads(job.request.prompt) if job.request.prompt.startswith("{") else {}
        sections, steps = asked.get("sections", 2), asked.get("steps", 2)
        session = folder / "session"
        session.mkdir(exist_ok=True)
        _write(session / "request.json", b"{}")
        spans = tuple(SectionSpan(12 * i, 12 * i + 12) for i in range(sections))
        yield Planned(JobPlan(64, 64, 12.0, 12 * sections, "forward", spans))
        for section in range(sections):
            path = session / f"{section:04d}"
            if path.exists():
                continue
            for step in range(steps):
                time.sleep(asked.get("sleep", 0.0))
                self._fault(asked, section, folder)
                yield Stepped("denoise", section, step + 1, steps)
                yield Looked(section, step + 1, b"RIFF")
            yield Stepped("decode", section, 0, 1)
            with (folder / "log").open("a") as log:
                log.write(f"{section}\n")
            _write(path, hashlib.sha256(f"{job.request.prompt}{section}".encode()).digest())
            _write(session / "so_far.mp4", b"so far")
            yield SectionMade(section, sections, 12 * (section + 1))
        made = b"".join((session / f"{s:04d}").read_bytes() for s in range(sections))
        _write(folder / "video.mp4", made)
        yield Made(12 * sections)

    def _fault(self, asked: dict[str, Any], section: int, folder: Path) -> None:
        if section != asked.get("at", 0):
            return
        match asked.get("fault"):
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill once" if not (folder / "killed").exists():
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            case "bug":
                raise ZeroDivisionError(f"in {folder}")
            case "refused":
                raise SessionError(
                    f"the session {folder / 'session'} was begun with something else"
                )
            case "missing":
                raise CheckpointError("model x is not complete on this machine: vae (missing)")
            case "disk" if (folder.parent / "full").exists():
                with open("/dev/full", "wb", buffering=0) as full:
                    full.write(b"x")
            case "wrapped" if (folder.parent / "full").exists():
                try:
                    with open("/dev/full", "wb", buffering=0) as full:
                        full.write(b"x")
                except OSError as error:
                    raise SessionError(f"cannot write: {error.strerror}") from None
            case _:
                pass


def _write(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(data)
    os.replace(beside, path)
