"""A pool of encoded clips on the device, with captions: what the backbone is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recurvid.training.camera import MoveRange, draw_paths, render
from recurvid.training.captions import caption
from recurvid.vae.taehv import TAEHV


@dataclass(frozen=True)
class ClipShape:
    """How many clips, of how many pixel frames (4k + 1), of which height and width."""

    count: int
    frames: int
    size: tuple[int, int]


BUNDLED_CLIPS = (
    ClipShape(1500, 73, (192, 192)),
    ClipShape(300, 145, (192, 192)),
    ClipShape(600, 73, (128, 288)),
    ClipShape(350, 73, (288, 128)),
)
"""Buckets of base 192, the square one most of all; two lengths: two and four sections. The two
oblong ones have the same number of tokens, so that the blocks are compiled for two shapes only."""


@dataclass
class ClipPool:
    """Clips of one length.

    Attributes:
        latents: (n, c, t, h, w), bfloat16 on a GPU, as the backbone sees them.
        moves, speeds: the camera move of each clip; captions are drawn anew at every use.
    """

    latents: Tensor
    moves: list[str]
    speeds: list[float]

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
        """Random clips, float32, and a caption for each."""
        rows = rng.integers(len(self.moves), size=count)
        texts = [caption(self.moves[r], self.speeds[r], rng) for r in rows]
        where = torch.from_numpy(rows).to(self.latents.device)
        return self.latents[where].float(), texts


@torch.no_grad()
def make_pool(
    pictures: Tensor,
    vae: TAEHV,
    shape: ClipShape,
    *,
    seed: int = 0,
    speeds: MoveRange | None = None,
) -> ClipPool:
    """Render and encode clips.

    Args:
        pictures: (n, 3, h, w) uint8 on the device of ``vae``.
        speeds: of the camera; None for those of the bundled model.
    """
    rng = np.random.default_rng(seed)
    path, moves, rates = draw_paths(
        shape.count, rng, pictures=len(pictures), frames=shape.frames, size=shape.size,
        source=(pictures.shape[-2], pictures.shape[-1]), speeds=speeds,
    )  # fmt: skip
    latents = [
        encode_clips(render(pictures, part.to(pictures.device), shape.frames, shape.size), vae)
        for part in path.pieces(4)
    ]
    return ClipPool(torch.cat(latents), moves, rates)


def encode_clips(clips: Tensor, vae: TAEHV) -> Tensor:
    """(b, 3, 4k+1, h, w) in -1..1 to latents; half precision where the device has it."""
    cuda = clips.device.type == "cuda"
    with torch.autocast(clips.device.type, torch.bfloat16, enabled=cuda):
        z = vae.encode(clips)
    return z.to(torch.bfloat16) if cuda else z
