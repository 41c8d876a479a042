"""Stores with small pictures in them, for tests."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from recurvid.generation.request import GenerationRequest
from recurvid.jobs.limits import Limits
from recurvid.jobs.states import Job
from recurvid.jobs.store import JobStore


class Disk(NamedTuple):
    total: int
    free: int


@lru_cache
def png(width: int = 24, height: int = 16, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def a_store(home: Path, free: int = 10**12, **limits: Any) -> JobStore:
    """A store whose disk has ``free`` bytes; ``store.disk`` may be changed."""
    return JobStore(home, Limits(**limits), disk_usage=lambda _: Disk(10**12, free))


def add(store: JobStore, request: GenerationRequest | None = None, **options: Any) -> Job:
    return store.add(request or GenerationRequest(seconds=1.0, size="64"), png(), **options)


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, f"waited {seconds} s for nothing"
        time.sleep(0.02)
