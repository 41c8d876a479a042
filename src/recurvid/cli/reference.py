"""The reference of the self check: made with the bundled weights, committed beside them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recurvid import durable
from recurvid.checkpoints.locate import BUNDLED_FOLDER
from recurvid.errors import ComponentError
from recurvid.events import Finished
from recurvid.generation.journal import Journal, Local
from recurvid.generation.opening import open_session
from recurvid.generation.request import GenerationRequest
from recurvid.generation.runtime import pick_device
from recurvid.video.reader import read_frames

PICTURE = "example.jpg"
FILE = "selfcheck.json"
REQUEST = GenerationRequest(prompt="pan left", seconds=4.0, seed=31337, size="128", steps=8)
SHOWN = (0, 12, 24, 36, 47)
# Measured between fp32 runs; half a grey level of the codec alone is 50 dB.
THRESHOLD = 30.0
_LOSSLESS = 99.0


def make(folder: Path, device: str) -> tuple[dict[int, NDArray[np.uint8]], str]:
    """Run the request; frame number -> (h, w, 3) uint8, and the kind of device that made them."""
    local = Local(output=str(folder / "video.mp4"), device=device)
    journal = Journal.create(folder / "session", REQUEST, local, BUNDLED_FOLDER / PICTURE)
    events = list(open_session(journal).run())
    assert isinstance(events[-1], Finished)
    frames = enumerate(read_frames(events[-1].video))
    return {number: frame for number, frame in frames if number in SHOWN}, pick_device(device).type


def compare(frames: dict[int, NDArray[np.uint8]], kind: str) -> dict[str, Any]:
    """PSNR of each shown frame against the reference.

    Raises:
        ComponentError: this installation has no reference, or one for another request.
    """
    path = BUNDLED_FOLDER / FILE
    if not path.is_file():
        raise ComponentError(f"{path} is missing: this installation has nothing to compare with")
    reference = json.loads(path.read_text("utf-8"))
    if reference["request"] != REQUEST.to_json():
        raise ComponentError(f"{path} was made for another request; reinstall the package")
    threshold = float(reference["thresholds"].get(kind, reference["thresholds"]["cpu"]))
    found = {
        number: psnr(frames[number], np.asarray(Image.open(BUNDLED_FOLDER / name).convert("RGB")))
        for number, name in ((int(n), name) for n, name in reference["frames"].items())
    }
    worst = min(found.values())
    return {
        "device": kind,
        "psnr": found,
        "worst": worst,
        "threshold": threshold,
        "passed": worst >= threshold,
    }


def write(frames: dict[int, NDArray[np.uint8]]) -> None:
    """Write the reference beside the weights; part of making them."""
    names = {str(number): f"selfcheck_{number:03d}.png" for number in frames}
    for number, name in names.items():
        with durable.atomic_path(BUNDLED_FOLDER / name) as beside:
            Image.fromarray(frames[int(number)]).save(beside, format="PNG", optimize=True)
    durable.write_json(
        BUNDLED_FOLDER / FILE,
        {"request": REQUEST.to_json(), "thresholds": {"cpu": THRESHOLD}, "frames": names},
    )


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures in dB, 99 where they are equal.

    Raises:
        ComponentError: they have different sizes.
    """
    if a.shape != b.shape:
        raise ComponentError(f"the frames are {a.shape}, those of the reference {b.shape}")
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return _LOSSLESS if error == 0 else min(10 * math.log10(255**2 / error), _LOSSLESS)
