"""Still pictures to move a camera over: photographs from a folder, and collages made of them.

Photographs of one kind teach an autoencoder that kind only. Collages ("dead leaves": random shapes
over one another, filled with flat colours, gradients, stripes and pieces of other photographs) have
edges and colours of every sort, so faces, text and rooms are not foreign to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from recurvid.errors import InputError

HEIGHT, WIDTH = 360, 720
HELD_OUT_EVERY = 11

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PictureSet:
    """Pictures split before anything is drawn from them.

    Attributes:
        train, held: (n, 3, 360, 720) uint8.
    """

    train: Tensor
    held: Tensor


def load_photographs(folder: Path) -> PictureSet:
    """Every JPEG and PNG of a folder, sorted by name; each eleventh is held out.

    Raises:
        InputError: the folder holds no picture.
    """
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".jpg", ".png"})
    if not files:
        raise InputError(f"no .jpg or .png in {folder}: name a folder of photographs")
    arrays = [np.asarray(_fit(Image.open(path))) for path in files]
    held = [a for i, a in enumerate(arrays) if i % HELD_OUT_EVERY == 0]
    train = [a for i, a in enumerate(arrays) if i % HELD_OUT_EVERY != 0]
    return PictureSet(stack(train or held), stack(held))


def stack(arrays: list[Pixels]) -> Tensor:
    """(h, w, 3) arrays of one size to (n, 3, h, w) uint8."""
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def _fit(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    return ImageOps.fit(picture, (WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def collage(photographs: list[Pixels], seed: int) -> Pixels:
    """One (360, 720, 3) collage. The same seed gives the same picture."""
    rng = np.random.default_rng(seed)
    canvas = Image.fromarray(_fill(photographs, rng))
    size = float(rng.uniform(20, 140))
    for _ in range(int(rng.integers(15, 90))):
        radius = size * float(rng.pareto(2.0) + 0.2)
        layer = Image.fromarray(_fill(photographs, rng))
        canvas.paste(layer, (0, 0), _shape(rng, min(radius, 220.0)))
    return np.asarray(canvas)


def _shape(rng: np.random.Generator, radius: float) -> Image.Image:
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    draw = ImageDraw.Draw(mask)
    x, y = float(rng.uniform(0, WIDTH)), float(rng.uniform(0, HEIGHT))
    kind = rng.integers(4)
    if kind == 0:
        stretch = float(rng.uniform(0.4, 1.6))
        draw.ellipse((x - radius, y - radius * stretch, x + radius, y + radius * stretch), fill=255)
    elif kind == 1:
        corners = int(rng.integers(3, 8))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radii = radius * rng.uniform(0.4, 1.3, corners)
        points = zip(x + radii * np.cos(angles), y + radii * np.sin(angles), strict=True)
        draw.polygon([(float(a), float(b)) for a, b in points], fill=255)
    elif kind == 2:
        ends = rng.uniform(-2, 2, 2) * radius
        width = int(rng.integers(1, 9))
        draw.line((x, y, x + float(ends[0]), y + float(ends[1])), fill=255, width=width)
    else:
        letters = "".join(chr(int(c)) for c in rng.integers(65, 91, int(rng.integers(2, 8))))
        draw.text((x, y), letters, fill=255, font_size=float(rng.uniform(8, 60)))
    return mask


def _fill(photographs: list[Pixels], rng: np.random.Generator) -> Pixels:
    kind = rng.integers(5)
    if kind <= 1:  # a piece of a photograph, mirrored, its colours moved
        piece = photographs[int(rng.integers(len(photographs)))]
        piece = np.roll(piece, int(rng.integers(WIDTH)), 1)[:, :: int(rng.choice([-1, 1]))]
        gain, shift = rng.uniform(0.6, 1.3, 3), rng.uniform(-40, 40, 3)
        return np.clip(piece[..., rng.permutation(3)] * gain + shift, 0, 255).astype(np.uint8)
    colours = rng.uniform(0, 255, (2, 3))
    if kind == 2:
        return np.broadcast_to(colours[0], (HEIGHT, WIDTH, 3)).astype(np.uint8).copy()
    yy, xx = np.mgrid[0:HEIGHT, 0:WIDTH]
    angle = float(rng.uniform(0, 2 * np.pi))
    along = np.cos(angle) * xx + np.sin(angle) * yy
    period = float(rng.uniform(4, 60)) if kind == 3 else 900.0
    blend = (0.5 + 0.5 * np.sin(2 * np.pi * along / period))[..., None]
    return (colours[0] * blend + colours[1] * (1 - blend)).astype(np.uint8)
