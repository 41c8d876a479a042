"""Still pictures of a finished video: one for a gallery, and frames side by side."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from recurvid.durable import beside_path
from recurvid.video.reader import read_frames

_SIDE = 512
_TILE = 256
_TILES, _COLUMNS = 12, 4


def make_posters(video: Path, frames: int) -> None:
    """Write ``thumbnail.webp`` and ``sheet.jpg`` beside a video of ``frames`` frames.

    Raises:
        InputError: that is not a video.
        OSError: they cannot be written.
    """
    count = min(_TILES, frames)
    wanted = {round(i * (frames - 1) / max(1, count - 1)) for i in range(count)}
    tiles: list[Image.Image] = []
    for number, pixels in enumerate(read_frames(video)):
        if number in wanted:
            picture = Image.fromarray(pixels)
            if not tiles:
                _save(_within(picture, _SIDE), video.with_name("thumbnail.webp"))
            tiles.append(_within(picture, _TILE))
    width, height = tiles[0].size
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width, number // columns * height))
    _save(sheet, video.with_name("sheet.jpg"))


def _within(picture: Image.Image, side: int) -> Image.Image:
    smaller = picture.copy()
    smaller.thumbnail((side, side))
    return smaller


def _save(picture: Image.Image, path: Path) -> None:
    beside = beside_path(path)
    try:
        picture.save(beside, quality=80)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
