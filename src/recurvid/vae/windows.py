"""Decoding a large picture in overlapping windows, as few and as large as memory allows.

Windows of one size are spread evenly, so that none is a sliver; where two overlap, one fades into
the other. (diffusers' tiles begin at multiples of their stride: at 480x832 its 15 tiles of 256
pixels decode 1.66 times the picture.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Latents over which neighbours fade: 64 pixels, as in the original.
OVERLAP = 8
#: A window is at least this wide where the picture is.
SMALLEST = 2 * OVERLAP


@dataclass(frozen=True)
class Windows:
    """Where the windows of a picture lie, in latents.

    Attributes:
        rows, columns: each as latents of the picture, in order; neighbours overlap.
    """

    rows: tuple[range, ...]
    columns: tuple[range, ...]

    @property
    def area(self) -> int:
        """Latents of one window."""
        return len(self.rows[0]) * len(self.columns[0])

    @property
    def work(self) -> int:
        """Latents of all windows together."""
        return self.area * len(self.rows) * len(self.columns)


def fit_windows(height: int, width: int, area: int) -> Windows:
    """Windows of at most ``area`` latents (or of the smallest size) that repeat the least.

    Args:
        height, width: of the picture, in latents.
    """
    choices = [
        Windows(rows, columns)
        for rows in _cuts(height)
        for columns in _cuts(width)
        if len(rows[0]) * len(columns[0]) <= area
    ]
    if not choices:
        return Windows(_cuts(height)[-1], _cuts(width)[-1])
    return min(choices, key=lambda w: (w.work, len(w.rows) * len(w.columns), len(w.columns)))


def _cuts(length: int) -> list[tuple[range, ...]]:
    """All ways to lay windows along a side: one, two, ... evenly spread."""
    found: list[tuple[range, ...]] = [(range(length),)]
    for count in range(2, length):
        size = -(-(length + (count - 1) * OVERLAP) // count)
        starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
        # Only neighbours may overlap, or fading would not add up.
        apart = all(b - a >= size for a, b in zip(starts, starts[2:], strict=False))
        if size < SMALLEST or not apart:
            break
        found.append(tuple(range(start, start + size) for start in starts))
    return found


def decode_windows(decode: Callable[[Tensor], Tensor], z: Tensor, windows: Windows) -> Tensor:
    """Decode (1, c, t, h, w) window by window.

    Args:
        decode: (1, c, t, h', w') -> (1, 3, t', h' * s, w' * s).

    Returns:
        (1, 3, t', h * s, w * s), in the number type that ``decode`` gives.
    """
    if len(windows.rows) == len(windows.columns) == 1:
        return decode(z)
    out: Tensor | None = None
    dtype = z.dtype
    for i, high in enumerate(windows.rows):
        for j, wide in enumerate(windows.columns):
            made = decode(z[:, :, :, high.start : high.stop, wide.start : wide.stop])
            scale = made.shape[4] // len(wide)
            if out is None:
                size = (z.shape[3] * scale, z.shape[4] * scale)
                out = torch.zeros(*made.shape[:3], *size, dtype=torch.float32, device=made.device)
            weight = _weight(windows.rows, i, scale, made)[:, None]
            weight = weight * _weight(windows.columns, j, scale, made)
            part = out[
                :,
                :,
                :,
                scale * high.start : scale * high.stop,
                scale * wide.start : scale * wide.stop,
            ]
            for t in range(made.shape[2]):  # a frame at a time: products of all would be large
                part[:, :, t] += made[:, :, t] * weight
            dtype = made.dtype
    assert out is not None
    return out.to(dtype)


def _weight(windows: tuple[range, ...], number: int, scale: int, like: Tensor) -> Tensor:
    """(pixels of the window,) float32: 1 inside, a ramp over each overlap; ramps add up to 1."""
    weight = torch.ones(len(windows[number]) * scale, dtype=torch.float32, device=like.device)
    if number:
        over = (windows[number - 1].stop - windows[number].start) * scale
        weight[:over] = _ramp(over, like)
    if number + 1 < len(windows):
        over = (windows[number].stop - windows[number + 1].start) * scale
        weight[-over:] = 1 - _ramp(over, like)
    return weight


def _ramp(length: int, like: Tensor) -> Tensor:
    steps = torch.arange(length, dtype=torch.float32, device=like.device)
    return (steps + 0.5) / length
