"""A server of a test: in a thread, on a port of its own, with jobs that nobody really makes."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image
from tests.architecture.source import ROOT

from recurvid.generation.request import GenerationRequest
from recurvid.jobs.access import Access
from recurvid.jobs.claims import Claim, Claims
from recurvid.jobs.limits import Limits
from recurvid.jobs.states import Job, JobPlan, JobProgress, SectionSpan
from recurvid.jobs.store import JobStore
from recurvid.server.app import LOOPBACK_NAMES, create_app, gate_for
from recurvid.server.service import Service
from recurvid.server.serving import TimedProtocol, listen

EXAMPLE = ROOT / "examples/valley.jpg"
VIDEO = bytes(range(256)) * 40
PLAN = JobPlan(64, 48, 12.0, 24, "inverted", (SectionSpan(0, 24),))


def png(width: int = 32, height: int = 24, seed: int = 0) -> bytes:
    """A small picture."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Live:
    """A running server, its store, and a client for it."""

    address: str
    service: Service
    client: httpx.Client

    @property
    def store(self) -> JobStore:
        return self.service.store

    def add(self, prompt: str = "pan left", owner: str = "", **fields: Any) -> Job:
        request = GenerationRequest(prompt=prompt, **fields)
        return self.store.add(request, png(), owner=owner)

    def claim(self) -> Claim:
        """Take the next job as a worker would."""
        claim = Claims(self.store).take("test")
        assert claim is not None
        Claims(self.store).planned(claim, PLAN)
        return claim

    def step(self, claim: Claim, step: int, steps: int = 4) -> None:
        progress = JobProgress("denoise", 0, 1, step, steps, total_frames=PLAN.frames)
        Claims(self.store).progress(claim, progress)

    def finish(self, claim: Claim) -> None:
        """Leave everything that a finished job has."""
        folder = self.store.folders.of(claim.id)
        (folder / "video.mp4").write_bytes(VIDEO)
        (folder / "so_far.mp4").write_bytes(VIDEO[:5000])
        Image.new("RGB", (8, 6)).save(folder / "thumbnail.webp")
        Image.new("RGB", (8, 6)).save(folder / "preview.webp")
        Image.new("RGB", (8, 6)).save(folder / "sheet.jpg")
        Image.new("RGB", (8, 6)).save(folder / "end_picture.png")
        done = JobProgress("write", None, 1, 1, 1, PLAN.frames, PLAN.frames, 0.0, (0,))
        Claims(self.store).done(claim, done)


@contextmanager
def live(
    home: Path,
    access: Access | None = None,
    *,
    limits: Limits | None = None,
    hosts: frozenset[str] | None = LOOPBACK_NAMES,
    header_seconds: float = 15.0,
    **gate: Any,
) -> Generator[Live]:
    """A server for the length of a test.

    Args:
        header_seconds: how long it waits for headers.
        gate: fields of the gate to replace.
    """
    service = Service(JobStore(home, limits), lambda: {"cpu": True})
    app = create_app(service, replace(gate_for(service, access or Access(), hosts), **gate))
    protocol = type("Protocol", (TimedProtocol,), {"header_seconds": header_seconds})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as bound:
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        try:
            until = time.monotonic() + 30
            while not server.started and time.monotonic() < until:
                time.sleep(0.01)
            with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
                yield Live(address, service, client)
        finally:
            service.stopping.set()
            server.should_exit = True
            thread.join(20)
            service.store.close()
