"""Latent frames and the arithmetic between them and pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recurvid.errors import InputError


@dataclass(frozen=True)
class LatentFrames:
    """Latent frames with the frame index of each.

    Attributes:
        data: (b, c, t, h, w), floating point.
        index: (b, t), int64. Inside a packed context: the RoPE frame index. On a timeline: the
            absolute latent frame number. Per sample, because a training batch mixes gaps.
    """

    data: Tensor
    index: Tensor

    def __post_init__(self) -> None:
        if self.data.ndim != 5:
            raise ValueError(f"latents must be (b, c, t, h, w), not {tuple(self.data.shape)}")
        if self.index.shape != (self.data.shape[0], self.data.shape[2]):
            raise ValueError(
                f"index {tuple(self.index.shape)} does not match latents {tuple(self.data.shape)}"
            )

    @property
    def frames(self) -> int:
        """Number of latent frames."""
        return self.data.shape[2]

    def to(self, *, device: torch.device | str, dtype: torch.dtype | None = None) -> LatentFrames:
        """The same frames on another device, the data in another floating point type."""
        return LatentFrames(self.data.to(device=device, dtype=dtype), self.index.to(device=device))

    @staticmethod
    def of(data: Tensor, index: range | list[int]) -> LatentFrames:
        """Latents (b, c, t, h, w) with one index for the whole batch."""
        row = torch.tensor(list(index), dtype=torch.int64, device=data.device)
        return LatentFrames(data, row.expand(data.shape[0], -1))


@dataclass(frozen=True)
class LatentGeometry:
    """How pixels and latents relate. The first latent frame stands for one picture.

    Defaults are HunyuanVideo's: 16 channels, 4x in time, 8x in space.
    """

    channels: int = 16
    temporal_stride: int = 4
    spatial_stride: int = 8

    def latent_frames(self, frames: int) -> int:
        """Latent frames needed to cover ``frames`` pixel frames (>= 1)."""
        if frames < 1:
            raise InputError(f"a video has at least one frame, not {frames}")
        return -(-(frames - 1) // self.temporal_stride) + 1

    def frames(self, latent_frames: int) -> int:
        """Pixel frames that ``latent_frames`` decode to."""
        return self.temporal_stride * (latent_frames - 1) + 1

    def pixel_range(self, latents: range) -> range:
        """Timeline pixel frames that belong to timeline latent frames ``latents`` (contiguous)."""
        first = 0 if latents.start == 0 else self.frames(latents.start)
        return range(first, self.frames(latents.stop))

    def shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int, int]:
        """Latent tensor shape for one sample of ``frames`` *latent* frames at a pixel size."""
        return (
            1,
            self.channels,
            frames,
            height // self.spatial_stride,
            width // self.spatial_stride,
        )
