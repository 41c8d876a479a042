"""A tiny causal video autoencoder in TAEHV's layout.

2-D convolutions over frames; every residual block also sees the same block's previous frame (its
memory). The class loads users' TAEHV files (flat ``encoder.N`` / ``decoder.N`` keys) and is the
bundled model's autoencoder. Layout facts: madebyollin/taehv (MIT); the code is our own.

Everything runs on whole runs of frames at once, and the memory can be carried from one run to the
next, so decoding in pieces gives the same picture as decoding at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Memory = dict[int, Tensor]  # layer number -> last input frame of that MemBlock, (b, c, h, w)


@dataclass(frozen=True)
class TAEHVConfig:
    """Shape of the autoencoder; ``TAEHVConfig()`` is the published HunyuanVideo file's.

    Attributes:
        patch_size: pixels are folded into channels in squares of this side, as later members of
            the TAEHV family do; the space strides make up the rest of the 8x.
        latent_mean, latent_std: per-channel statistics. The backbone sees (z - mean) / std. Empty
            for files whose latents are the backbone's own.
    """

    latent_channels: int = 16
    encoder_width: int = 64
    decoder_widths: tuple[int, int, int, int] = (256, 128, 64, 64)
    encoder_time_strides: tuple[int, int, int] = (2, 2, 1)
    decoder_time_strides: tuple[int, int, int] = (1, 2, 2)
    patch_size: int = 1
    encoder_space_strides: tuple[int, int, int] = (2, 2, 2)
    decoder_space_scales: tuple[int, int, int] = (2, 2, 2)
    latent_mean: tuple[float, ...] = field(default=())
    latent_std: tuple[float, ...] = field(default=())

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame after the first."""
        return (
            self.decoder_time_strides[0]
            * self.decoder_time_strides[1]
            * (self.decoder_time_strides[2])
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> TAEHVConfig:
        """The inverse of ``to_dict``; lists become tuples."""
        fields: dict[str, Any] = {}
        for name, value in values.items():
            fields[name] = tuple(value) if isinstance(value, list) else value
        return TAEHVConfig(**fields)


def _conv3(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


class SoftClamp(nn.Module):
    """Squeezes latents into (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return 3 * torch.tanh(x / 3)


class MemBlock(nn.Module):
    """Residual block over a frame and the frame before it."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Sequential(
            _conv3(2 * inputs, outputs),
            nn.ReLU(),
            _conv3(outputs, outputs),
            nn.ReLU(),
            _conv3(outputs, outputs),
        )
        self.skip = (
            nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)
        )

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        """(n, c, h, w) frames and the frame before each."""
        return F.relu(self.conv(torch.cat([x, previous], 1)) + self.skip(x))


class TPool(nn.Module):
    """``stride`` frames become one, by a 1x1 convolution over their channels."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels * stride, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n * stride, c, h, w) to (n, c, h, w)."""
        return self.conv(x.reshape(-1, self.stride * x.shape[1], *x.shape[2:]))


class TGrow(nn.Module):
    """One frame becomes ``stride`` frames."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n * stride, c, h, w)."""
        return self.conv(x).reshape(-1, x.shape[1], *x.shape[2:])


def _encoder(config: TAEHVConfig) -> nn.Sequential:
    width = config.encoder_width
    layers: list[nn.Module] = [_conv3(3 * config.patch_size**2, width), nn.ReLU()]
    for stride, space in zip(
        config.encoder_time_strides, config.encoder_space_strides, strict=True
    ):
        layers += [TPool(width, stride), _conv3(width, width, stride=space, bias=False)]
        layers += [MemBlock(width, width) for _ in range(3)]
    return nn.Sequential(*layers, _conv3(width, config.latent_channels))


def _decoder(config: TAEHVConfig) -> nn.Sequential:
    widths = config.decoder_widths
    layers: list[nn.Module] = [SoftClamp(), _conv3(config.latent_channels, widths[0]), nn.ReLU()]
    for i, stride in enumerate(config.decoder_time_strides):
        layers += [MemBlock(widths[i], widths[i]) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=config.decoder_space_scales[i])]
        layers += [TGrow(widths[i], stride)]
        layers += [_conv3(widths[i], widths[i + 1], bias=False)]
    return nn.Sequential(*layers, nn.ReLU(), _conv3(widths[3], 3 * config.patch_size**2))


class TAEHV(nn.Module):
    """The autoencoder. Pixels are -1..1 outside and 0..1 inside, as the published files expect."""

    def __init__(self, config: TAEHVConfig):
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)

    def encode(self, frames: Tensor) -> Tensor:
        """(b, 3, 4k+1, h, w) in -1..1 to (b, c, k+1, h/8, w/8) as the backbone sees them.

        The first picture stands alone in latent 0: it is repeated to fill one latent frame.
        """
        lead = self.config.temporal_stride - 1
        x = (torch.cat([frames[:, :, :1].expand(-1, -1, lead, -1, -1), frames], 2) + 1) / 2
        z, _ = run_frames(self.encoder, self._fold(x), {})
        return self._normalize(z)

    def decode(self, latents: Tensor) -> Tensor:
        """(b, c, k+1, h, w) to (b, 3, 4k+1, 8h, 8w), about -1..1 (not clamped)."""
        return self.decode_piece(latents, {})[0][:, :, self.config.temporal_stride - 1 :]

    def decode_piece(self, latents: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Decode a run of latents that follows the run which left ``memory``.

        Every latent frame gives ``temporal_stride`` pixel frames; at the start of a timeline
        (empty memory) all but the last of the first latent's frames are to be dropped.
        """
        x, after = run_frames(self.decoder, self.denormalize(latents), memory)
        return self._unfold(x) * 2 - 1, after

    def _fold(self, x: Tensor) -> Tensor:
        p = self.config.patch_size
        return x if p == 1 else F.pixel_unshuffle(x.transpose(1, 2), p).transpose(1, 2)

    def _unfold(self, x: Tensor) -> Tensor:
        p = self.config.patch_size
        return x if p == 1 else F.pixel_shuffle(x.transpose(1, 2), p).transpose(1, 2)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        if not self.config.latent_mean:
            return None
        shape = (1, -1, 1, 1, 1)
        mean = torch.tensor(self.config.latent_mean, dtype=like.dtype, device=like.device)
        std = torch.tensor(self.config.latent_std, dtype=like.dtype, device=like.device)
        return mean.view(shape), std.view(shape)

    def _normalize(self, z: Tensor) -> Tensor:
        statistics = self._statistics(z)
        return z if statistics is None else (z - statistics[0]) / statistics[1]

    def denormalize(self, z: Tensor) -> Tensor:
        """Latents as the backbone sees them to latents as the network has them."""
        statistics = self._statistics(z)
        return z if statistics is None else z * statistics[1] + statistics[0]


def run_frames(layers: nn.Sequential, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """Run a frame network over (b, c, t, h, w); returns its output and the memory it leaves."""
    b, c, t, h, w = x.shape
    x = x.transpose(1, 2).reshape(b * t, c, h, w).contiguous(memory_format=torch.channels_last)
    after: Memory = {}
    for number, layer in enumerate(layers):
        if isinstance(layer, MemBlock):
            frames = x.view(b, -1, *x.shape[1:])  # (b, t, c, h, w)
            first = memory.get(number)
            first = torch.zeros_like(frames[:, 0]) if first is None else first
            previous = torch.cat([first[:, None], frames[:, :-1]], 1).flatten(0, 1)
            after[number] = frames[:, -1]
            x = layer(x, previous)
        else:
            x = layer(x)
    return x.view(b, -1, *x.shape[1:]).transpose(1, 2), after
