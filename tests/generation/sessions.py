"""Sessions over tiny components, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.generation.tiny_components import tiny_components

from recurvid.generation.components import Components
from recurvid.generation.defaults import spec_of
from recurvid.generation.journal import Journal, Local
from recurvid.generation.request import GenerationRequest
from recurvid.generation.session import GenerationSession
from recurvid.generation.video_plan import VideoPlan, plan_video

SIZE = (48, 64)


def write_picture(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def start(root: Path, *, end: bool = False, **asked: Any) -> Journal:
    """A new session folder ``root/session`` for ``root/out.mp4``."""
    root.mkdir(exist_ok=True, parents=True)
    values: dict[str, Any] = {
        "prompt": "a walk",
        "seconds": 5.0,
        "size": "64x48",
        "steps": 2,
        "solver": "euler",
    }
    local: dict[str, Any] = {"output": str(root / "out.mp4")}
    local |= {k: asked.pop(k) for k in ("output", "overwrite", "metadata") if k in asked}
    request = GenerationRequest(**(values | asked))
    return Journal.create(
        root / "session",
        request,
        Local(**local),
        write_picture(root / "picture.png"),
        write_picture(root / "end.png", 1) if end else None,
    )


def planned(journal: Journal, components: Components) -> VideoPlan:
    request = journal.request
    end = journal.end_picture is not None
    return plan_video(request, spec_of(request), SIZE, components.geometry, end_picture=end)


def opened(journal: Journal, **options: Any) -> GenerationSession:
    """A session object, as a new process would make it."""
    components = tiny_components()
    if journal.has("plan.json"):
        plan = VideoPlan.from_json(journal.read_json("plan.json"))
    else:
        plan = planned(journal, components)
    return GenerationSession(Journal.open(journal.folder), plan, components, **options)


def contents(root: Path) -> dict[str, bytes]:
    """The result, and every latent and segment: what must not depend on interruptions."""
    session = root / "session"
    files = [*session.glob("sections/*"), *session.glob("video/*"), session / "so_far.mp4"]
    files += [session / "conditioning.safetensors", root / "out.mp4"]
    return {str(file.relative_to(root)): file.read_bytes() for file in files}
