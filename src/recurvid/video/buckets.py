"""Which size a video gets: aspect buckets, ``--size WxH``, and fitting a picture into it."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recurvid.errors import RequestError

Size = tuple[int, int]
"""(height, width) in pixels."""

SIZE_UNIT = 16
MIN_SIDE, MAX_SIDE = 32, 4096
_BUCKET_UNIT = 32
_MAX_ASPECT = 2.5

# The released models' sizes (paper.md section 4): (height, width), wide to tall.
_RELEASED: tuple[Size, ...] = (
    (416, 960), (448, 864), (480, 832), (512, 768), (544, 704), (576, 672), (608, 640),
    (640, 608), (672, 576), (704, 544), (768, 512), (832, 480), (864, 448), (960, 416),
)  # fmt: skip
_RELEASED_BASE = 640

# Above this many pixels the picture is not scaled up as a whole before it is cut (1 x 100,000).
_WHOLE_LIMIT = 64_000_000


@lru_cache(maxsize=64)
def buckets(base: int) -> tuple[Size, ...]:
    """Sizes of about ``base * base`` pixels, sides multiples of 32, widest first.

    640 gives the table of the released models. Any other base, a multiple of 32 or not: for each
    short side, the multiple of 32 nearest to ``base * base`` divided by it, down to an aspect
    of 2.5, and the transposes; where none fits, the nearest square.

    Raises:
        RequestError: ``base`` is outside 32..4096.
    """
    if base == _RELEASED_BASE:
        return _RELEASED
    if not MIN_SIDE <= base <= MAX_SIDE:
        raise RequestError(
            f"base size {base}: must be between {MIN_SIDE} and {MAX_SIDE} pixels",
            "size.sides",
            value=base,
            least=MIN_SIDE,
            most=MAX_SIDE,
        )
    wide: list[Size] = []
    for short in range(_BUCKET_UNIT, base + _BUCKET_UNIT, _BUCKET_UNIT):
        long = int(base * base / short / _BUCKET_UNIT + 0.5) * _BUCKET_UNIT
        if short <= long <= min(short * _MAX_ASPECT, MAX_SIDE):
            wide.append((short, long))
    if not wide:
        side = max(round(base / _BUCKET_UNIT), 1) * _BUCKET_UNIT
        wide.append((side, side))
    both = {*wide, *((long, short) for short, long in wide)}
    return tuple(sorted(both))


def bucket_for(height: int, width: int, base: int) -> Size:
    """The bucket whose shape is nearest to a picture's; of equally near ones the later.

    Nearness is ``abs(height * bucket_width - width * bucket_height)``, as in the original, whose
    ``<=`` decides ties (paper.md section 10): a square picture gets (640, 608).
    """
    if height < 1 or width < 1:
        raise ValueError(f"a picture of {width}x{height} has no shape")
    options = buckets(base)
    return min(reversed(options), key=lambda size: abs(height * size[1] - width * size[0]))


def parse_size(text: str) -> Size:
    """Read ``WxH`` (``832x480``) into (height, width).

    Raises:
        RequestError: not two numbers, not multiples of 16, or outside 32..4096.
    """
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*[x×*]\s*([0-9]{1,9})\s*", text, re.IGNORECASE)
    if match is None:
        raise RequestError(
            f"size {text!r}: write it as WIDTHxHEIGHT, for example 832x480",
            "size.form",
            value=text,
        )
    width, height = int(match[1]), int(match[2])
    check_size(height, width)
    return height, width


def check_size(height: int, width: int) -> None:
    """Refuse a size that no video here can have.

    Raises:
        RequestError: with the nearest size that would do.
    """
    near = f"{_nearest_side(width)}x{_nearest_side(height)}"
    for name, side in (("width", width), ("height", height)):
        if not MIN_SIDE <= side <= MAX_SIDE:
            limits = f"must be between {MIN_SIDE} and {MAX_SIDE}"
            raise RequestError(
                f"size {width}x{height}: {name} {limits}; try {near}",
                "size.near",
                value=f"{width}x{height}",
                near=near,
            )
        if side % SIZE_UNIT:
            must = f"must be a multiple of {SIZE_UNIT}"
            raise RequestError(
                f"size {width}x{height}: {name} {must}; try {near}",
                "size.multiple",
                value=f"{width}x{height}",
                unit=SIZE_UNIT,
                near=near,
            )


def _nearest_side(side: int) -> int:
    return min(max((side + SIZE_UNIT // 2) // SIZE_UNIT * SIZE_UNIT, MIN_SIDE), MAX_SIDE)


def center_crop_resize(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Scale a picture to cover ``height`` x ``width`` (LANCZOS) and cut the middle out.

    Rounding is the original's: sides of the scaled picture to the nearest integer, the cut at
    Python's ``round`` of the half differences. A picture of the very size passes untouched.
    A sliver whose scaled form would not fit into memory is cut before it is scaled.

    Args:
        picture: (h, w, 3) uint8.

    Returns:
        (height, width, 3) uint8.
    """
    rows, columns = picture.shape[:2]
    if (rows, columns) == (height, width):
        return picture
    scale = max(width / columns, height / rows)
    wide, tall = round(columns * scale), round(rows * scale)
    image = Image.fromarray(picture)
    if wide * tall > _WHOLE_LIMIT:
        half_w, half_h = width / scale / 2, height / scale / 2
        box = (
            max(columns / 2 - half_w, 0.0),
            max(rows / 2 - half_h, 0.0),
            min(columns / 2 + half_w, float(columns)),
            min(rows / 2 + half_h, float(rows)),
        )
        return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box))
    scaled = image.resize((wide, tall), Image.Resampling.LANCZOS)
    left, top = round((wide - width) / 2), round((tall - height) / 2)
    return np.asarray(scaled.crop((left, top, left + width, top + height)))
