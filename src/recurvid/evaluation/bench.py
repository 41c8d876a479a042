"""What a video costs on this machine: seconds by phase and memory, for a few ways of making it."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from recurvid import __version__
from recurvid.caching.thresholds import OFF
from recurvid.checkpoints.locate import BUNDLED_FOLDER
from recurvid.events import Progress, SectionDone
from recurvid.generation.journal import Journal, Local
from recurvid.generation.opening import open_session
from recurvid.generation.request import GenerationRequest

PHASES = ("encode", "load", "denoise", "decode", "write")
#: Step caches that need no calibration of the model.
CACHES = (OFF, "teacache")
#: What of a Local is told with the figures.
_HOW = ("dtype", "vram", "attention", "weights", "compiled", "exact_steps", "sparse")


@dataclass
class Measured:
    """One video.

    Attributes:
        name: what was special about it.
        seconds: by phase.
        step_seconds: of each denoising step.
        frames: of the video, as far as it was made.
        process_bytes: most system memory of the process; None where the system does not say.
        device_bytes: most that torch's allocator had reserved; None on the CPU.
    """

    name: str
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    step_seconds: list[float] = field(default_factory=list[float])
    frames: int = 0
    process_bytes: int | None = None
    device_bytes: int | None = None

    @property
    def seconds_a_frame(self) -> float:
        """Denoising and decoding, without what happens once."""
        return (self.seconds["denoise"] + self.seconds["decode"]) / max(1, self.frames)

    @property
    def step(self) -> float:
        """The middle one of the steps after the first, which warms up."""
        later = sorted(self.step_seconds[1:] or self.step_seconds)
        return later[len(later) // 2] if later else 0.0

    def to_json(self) -> dict[str, Any]:
        """Everything, rounded."""
        values = asdict(self)
        values["seconds"] = {name: round(value, 3) for name, value in self.seconds.items()}
        values["step_seconds"] = [round(value, 4) for value in self.step_seconds]
        return values | {
            "seconds_a_frame": round(self.seconds_a_frame, 4),
            "step_seconds_median": round(self.step, 4),
        }


def bench(
    request: GenerationRequest, local: Local, caches: Sequence[str] = CACHES
) -> Iterator[Measured]:
    """The request's video of the example picture, once for each step cache; nothing is kept.

    Args:
        local: device and so on; where the result goes does not count.

    Raises:
        RecurVidError: as for any session.
    """
    for cache in caches:
        name = "no step cache" if cache == OFF else cache
        asked = request.but(step_cache=cache)
        with tempfile.TemporaryDirectory(prefix="recurvid-bench-") as folder:
            root = Path(folder)
            here = replace(local, output=str(root / "video.mp4"))
            picture = BUNDLED_FOLDER / "example.jpg"
            yield _made(name, Journal.create(root / "session", asked, here, picture))


def _made(name: str, journal: Journal) -> Measured:
    measured = Measured(name)
    session = open_session(journal)
    cuda = session.components.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(session.components.device)
    with _PeakMemory() as memory:
        phase, last = "encode", time.perf_counter()
        for event in session.run():
            now = time.perf_counter()
            if isinstance(event, Progress):
                # Phases announce themselves with step 0; denoising tells only finished steps.
                phase = event.phase if event.step else phase
                if event.phase == "denoise":
                    measured.step_seconds.append(now - last)
            measured.seconds[phase] += now - last
            if isinstance(event, Progress):
                phase = event.phase
            elif isinstance(event, SectionDone):
                measured.frames = event.frames
            last = now
    measured.process_bytes = memory.peak
    if cuda:
        measured.device_bytes = torch.cuda.max_memory_reserved(session.components.device)
    return measured


class _PeakMemory:
    """The most memory that this process holds meanwhile (Linux; files that are mapped excluded)."""

    def __init__(self) -> None:
        self.peak = _process_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            now = _process_bytes()
            if now is not None:
                self.peak = max(self.peak or 0, now)


def _process_bytes() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    sizes = [line.split() for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]
    return sum(int(words[1]) * 1024 for words in sizes) if sizes else None


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on. Neither paths nor names of the machine or its user."""
    card: dict[str, Any] = {}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        card = {"card": properties.name, "card_bytes": properties.total_memory}
    return {
        "recurvid": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{sys.platform} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        **card,
    }


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), None)


def shareable(
    rows: Sequence[Measured], request: GenerationRequest, local: Local, device: torch.device
) -> dict[str, Any]:
    """All of it as JSON that can be shown to anybody."""
    kept = ("model", "size", "steps", "seconds", "seed", "solver")
    asked: Mapping[str, Any] = {name: getattr(request, name) for name in kept}
    how = {name: getattr(local, name) for name in _HOW}
    return {
        "format": 1,
        "machine": machine(device),
        "request": dict(asked),
        "how": how,
        "videos": [row.to_json() for row in rows],
    }
