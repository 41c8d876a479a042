"""A few frames side by side: how a report or a README shows a video."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recurvid import durable
from recurvid.errors import OutputError

_PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def evenly_spaced(frames: int, count: int) -> list[int]:
    """``count`` frame numbers from 0 to the last, both included; all of them when fewer."""
    if frames < 1 or count < 1:
        raise ValueError(f"{count} of {frames} frames")
    if count == 1:
        return [0]
    count = min(count, frames)
    if count == 1:
        return [0]
    return [round(number * (frames - 1) / (count - 1)) for number in range(count)]


def contact_sheet(
    frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    *,
    columns: int | None = None,
    cell: int | None = None,
    gap: int = 4,
) -> NDArray[np.uint8]:
    """Lay frames out in a grid on white, row by row.

    Args:
        frames: (h, w, 3) uint8 each; of different sizes, each is centred in the largest's cell.
        columns: frames a row; by default the grid that is nearest to a square.
        cell: longest side of a frame in the sheet; None keeps the frames' own size.
        gap: white pixels between and around.

    Returns:
        (H, W, 3) uint8.
    """
    if len(frames) == 0:
        raise ValueError("a contact sheet needs a frame")
    pictures = [_shrunk(frame, cell) for frame in frames]
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    across = columns or math.ceil(math.sqrt(len(pictures) * height / width))
    across = min(max(across, 1), len(pictures))
    down = -(-len(pictures) // across)
    sheet = np.full((down * (height + gap) + gap, across * (width + gap) + gap, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, across)
        top = gap + row * (height + gap) + (height - picture.shape[0]) // 2
        left = gap + column * (width + gap) + (width - picture.shape[1]) // 2
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def write_picture(path: str | Path, pixels: NDArray[np.uint8], *, quality: int = 92) -> None:
    """Write (h, w, 3) uint8 as PNG, JPEG or WebP, by the ending; whole or not at all.

    Raises:
        OutputError: another ending, or it cannot be written.
    """
    path = Path(path)
    form = _PICTURE_FORMATS.get(path.suffix.lower())
    if form is None:
        raise OutputError(f"picture {str(path)!r}: use {', '.join(_PICTURE_FORMATS)}")
    try:
        with durable.atomic_path(path) as beside:
            Image.fromarray(pixels).save(beside, format=form, quality=quality, subsampling=0)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _shrunk(frame: NDArray[np.uint8], cell: int | None) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    if cell is None or max(height, width) == cell:
        return frame
    scale = cell / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
