"""A camera that moves over still pictures, rendered in batches on the device, with captions.

"Pan left" turns the camera to the left, so the picture slides to the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MOVES = ("pan left", "pan right", "tilt up", "tilt down", "zoom in", "zoom out", "still")


@dataclass(frozen=True)
class CameraPath:
    """One camera move per clip; lengths in output pixels, sides in source pixels.

    Attributes:
        picture: (b,) int64, which picture.
        centre: (b, 2) x, y of the window's centre in the first frame, source pixels.
        scale: (b,) source pixels per output pixel in the first frame.
        velocity: (b, 2) movement of the window, output pixels a frame.
        zoom: (b,) log magnification a frame, positive = zoom in.
        flip: (b,) bool, mirrored left to right.
    """

    picture: Tensor
    centre: Tensor
    scale: Tensor
    velocity: Tensor
    zoom: Tensor
    flip: Tensor

    def to(self, device: torch.device | str) -> CameraPath:
        """The same paths on another device."""
        return CameraPath(*(getattr(self, f).to(device) for f in self.__dataclass_fields__))

    def part(self, rows: slice) -> CameraPath:
        """Some of the clips."""
        return CameraPath(*(getattr(self, f)[rows] for f in self.__dataclass_fields__))

    def pieces(self, size: int) -> list[CameraPath]:
        """All clips in order, at most ``size`` at a time."""
        return [self.part(slice(i, i + size)) for i in range(0, len(self.scale), size)]


def render(
    pictures: Tensor,
    path: CameraPath,
    frames: int,
    size: tuple[int, int],
    *,
    supersample: int = 2,
) -> Tensor:
    """Clips (b, 3, frames, *size), float32 in -1..1, of pictures (n, 3, h, w) uint8.

    Args:
        size: height and width of the clips.
    """
    source = pictures[path.picture].float()
    height, width = source.shape[-2:]
    down, across = (_centred(side, supersample).to(source.device) for side in size)
    time = torch.arange(frames, device=source.device, dtype=torch.float32)
    scale = path.scale[:, None] * torch.exp(-path.zoom[:, None] * time)  # (b, t)
    centre = (
        path.centre[:, None]
        + (path.velocity * path.scale[:, None])[:, None] * (time[None, :, None])
    )  # (b, t, 2)
    mirror = torch.where(path.flip, -1.0, 1.0)[:, None, None]
    x = centre[..., 0, None] + scale[..., None] * mirror * across  # (b, t, w)
    y = centre[..., 1, None] + scale[..., None] * down  # (b, t, h)
    gx, gy = 2 * x / width - 1, 2 * y / height - 1
    grid = torch.stack(
        torch.broadcast_tensors(gx[:, :, None, :], gy[:, :, :, None]), -1
    )  # (b, t, h, w, 2)
    b = source.shape[0]
    out = F.grid_sample(
        source,
        grid.flatten(1, 2),  # time as height: one call for all frames
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    out = F.avg_pool2d(out, supersample)
    return out.view(b, 3, frames, *size) / 127.5 - 1


def _centred(side: int, supersample: int) -> Tensor:
    """Distance of each sample from the middle, in output pixels."""
    return (torch.arange(side * supersample) + 0.5) / supersample - side / 2


@dataclass(frozen=True)
class MoveRange:
    """How fast cameras move: (slowest, fastest); and how many stand still or zoom."""

    pan: tuple[float, float] = (0.3, 0.8)  # output pixels a frame
    zoom: tuple[float, float] = (0.002, 0.0045)  # log magnification a frame
    still_share: float = 0.05
    zoom_share: float = 1 / 3  # of those that move


def draw_paths(
    count: int,
    rng: np.random.Generator,
    *,
    pictures: int,
    frames: int,
    size: tuple[int, int],
    source: tuple[int, int] = (360, 720),
    speeds: MoveRange | None = None,
) -> tuple[CameraPath, list[str], list[float]]:
    """Random camera moves that stay inside the picture where they can.

    Returns:
        the paths, the name of each move (one of ``MOVES``) and its speed, 0 = slowest, 1 = fastest.
    """
    speeds = speeds or MoveRange()
    rows = [_draw_one(rng, frames, size, source, speeds) for _ in range(count)]
    values = torch.tensor([row[0] for row in rows], dtype=torch.float32)
    path = CameraPath(
        picture=torch.from_numpy(rng.integers(pictures, size=count)),
        centre=values[:, 0:2],
        scale=values[:, 2],
        velocity=values[:, 3:5],
        zoom=values[:, 5],
        flip=values[:, 6] > 0,
    )
    return path, [row[1] for row in rows], [row[2] for row in rows]


def _draw_one(
    rng: np.random.Generator,
    frames: int,
    size: tuple[int, int],
    source: tuple[int, int],
    speeds: MoveRange,
) -> tuple[tuple[float, ...], str, float]:
    still = rng.random() < speeds.still_share
    zooms = rng.random() < speeds.zoom_share
    move = "still" if still else MOVES[int(rng.integers(4, 6) if zooms else rng.integers(4))]
    speed = float(rng.random())
    low, high = speeds.zoom if "zoom" in move else speeds.pan
    rate = low + (high - low) * speed
    flip = bool(rng.random() < 0.5)
    # in a mirrored clip the window must run the other way for the caption to hold
    vx = {"pan left": -rate, "pan right": rate}.get(move, 0.0) * (-1 if flip else 1)
    vy = {"tilt up": -rate, "tilt down": rate}.get(move, 0.0)
    zoom = {"zoom in": rate, "zoom out": -rate}.get(move, 0.0)
    height, width = source
    travel = frames - 1
    # the largest window of the whole move decides which scales fit
    grow = max(1.0, float(np.exp(-zoom * travel)))
    need_y, need_x = size[0] * grow + abs(vy) * travel, size[1] * grow + abs(vx) * travel
    largest = min(height / need_y, width / need_x)
    scale = float(rng.uniform(0.5 * largest, largest))
    room_y, room_x = height - need_y * scale, width - need_x * scale
    cx = width / 2 + (rng.random() - 0.5) * max(0.0, room_x) - vx * travel * scale / 2
    cy = height / 2 + (rng.random() - 0.5) * max(0.0, room_y) - vy * travel * scale / 2
    return (float(cx), float(cy), scale, vx, vy, zoom, float(flip)), move, speed
