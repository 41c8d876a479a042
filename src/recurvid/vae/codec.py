"""What every autoencoder offers, and how its frames arrive while sections are still being made.

A codec knows which frames it can finish from which latents; whoever generates only pushes latents
and takes frames. Sections come in any order (the inverted one starts at the end), so a stream
holds back what still waits for a neighbour and forgets what nobody needs any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from recurvid.errors import InputError
from recurvid.latents import LatentFrames, LatentGeometry


@dataclass(frozen=True)
class PixelFrames:
    """A run of finished frames.

    Attributes:
        start: timeline frame number of the first.
        data: (t, 3, h, w) float32 on the CPU, about -1..1 (not clamped).
    """

    start: int
    data: Tensor

    @property
    def frames(self) -> range:
        """The timeline frames that it holds."""
        return range(self.start, self.start + self.data.shape[0])

    def uint8(self) -> Tensor:
        """(t, h, w, 3) uint8, rounded to the nearest level."""
        levels = self.data.clamp(-1, 1).mul(127.5).add(127.5).round()
        return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@runtime_checkable
class DecodeStream(Protocol):
    """Frames of one timeline, each exactly once."""

    def push(self, latents: LatentFrames) -> Iterator[PixelFrames]:
        """Add latents (1, c, t, h, w) and yield the runs of frames that became final.

        ``latents.index`` is absolute on the timeline; every position is pushed once. The latents
        are taken at once, the work happens while the result is iterated. The runs of one call come
        in timeline order and touch each other unless the timeline has a hole between them.
        """
        ...

    def provisional(self, shown: Sequence[range]) -> Iterator[PixelFrames]:
        """Runs of frames that wait for latents still to come, as good as cheaply possible now.

        To be called when the last push's frames have been taken; what later pushes give stays the
        same. ``shown`` are timeline frames that nobody needs again. Runs come in timeline order.
        """
        ...


@runtime_checkable
class Codec(Protocol):
    """An autoencoder as the rest of the program sees it."""

    @property
    def geometry(self) -> LatentGeometry:
        """Strides and channels."""
        ...

    @property
    def module(self) -> nn.Module:
        """The network, for whoever moves it between devices."""
        ...

    def encode(self, frames: Tensor) -> Tensor:
        """(b, 3, 4k+1, h, w) in -1..1 -> (b, c, k+1, h/8, w/8), scaled as the backbone has them."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(b, c, k+1, h, w) -> (b, 3, 4k+1, 8h, 8w), about -1..1; the same bits as a stream."""
        ...

    def stream(self, latent_frames: int, finished: Sequence[range] = ()) -> DecodeStream:
        """Decode a timeline of ``latent_frames`` as its sections arrive.

        ``finished`` are timeline *pixel* frames that exist already (a resumed session): they are
        neither yielded nor decoded again, unless a neighbour's frames need it.
        """
        ...


class LatentBuffer:
    """Latents by timeline position, until nobody needs them any more."""

    def __init__(self, latent_frames: int):
        if latent_frames < 1:
            raise ValueError(f"a timeline has at least one latent frame, not {latent_frames}")
        self.latent_frames = latent_frames
        self._seen: set[int] = set()
        self._held: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[int]:
        return iter(self._held)

    def add(self, latents: LatentFrames) -> None:
        """Take latents (1, c, t, h, w); ValueError when a position is outside or came before."""
        if latents.data.shape[0] != 1:
            raise ValueError(f"a stream decodes one video, not {latents.data.shape[0]}")
        positions = [int(i) for i in latents.index[0]]
        for position in positions:
            if not 0 <= position < self.latent_frames:
                raise ValueError(f"latent {position} is outside 0..{self.latent_frames - 1}")
            if position in self._seen:
                raise ValueError(f"latent {position} was pushed before")
            self._seen.add(position)
        for slot, position in enumerate(positions):
            self._held[position] = latents.data[:, :, slot : slot + 1].clone()

    def has(self, positions: range) -> bool:
        """Whether all of these are held."""
        return all(position in self._held for position in positions)

    def get(self, positions: range) -> Tensor:
        """(1, c, len(positions), h, w)."""
        return torch.cat([self._held[position] for position in positions], dim=2)

    def keep_only(self, needed: set[int]) -> None:
        """Forget every latent that is not in ``needed``."""
        self._held = {i: z for i, z in self._held.items() if i in needed}


def merged(finished: Sequence[range]) -> tuple[range, ...]:
    """The same frames in as few ranges as possible, in order."""
    joined: list[range] = []
    for part in sorted((p for p in finished if len(p)), key=lambda p: p.start):
        if joined and part.start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, part.stop))
        else:
            joined.append(part)
    return tuple(joined)


def missing(frames: range, finished: Sequence[range]) -> list[range]:
    """The parts of ``frames`` that no range of ``finished`` covers, in order."""
    parts = [frames] if len(frames) else []
    for done in finished:
        kept: list[range] = []
        for part in parts:
            left = range(part.start, min(part.stop, done.start))
            right = range(max(part.start, done.stop), part.stop)
            kept += [part] if not len(done) else [p for p in (left, right) if len(p)]
        parts = kept
    return parts


def runs(start: int, frames: Tensor, finished: Sequence[range]) -> Iterator[PixelFrames]:
    """Frames (1, 3, t, h, w) beginning at timeline frame ``start``, without the finished ones."""
    for part in missing(range(start, start + frames.shape[2]), finished):
        piece = frames[0, :, part.start - start : part.stop - start]
        yield PixelFrames(part.start, piece.transpose(0, 1).to("cpu", torch.float32).contiguous())


def decode_whole(stream: Callable[[int], DecodeStream], latents: Tensor) -> Tensor:
    """Decode (b, c, k+1, h, w) at once through ``stream``: (b, 3, 4k+1, 8h, 8w) on the CPU."""
    videos: list[Tensor] = []
    for row in latents.split(1):
        timeline = LatentFrames.of(row, range(row.shape[2]))
        pieces = [run.data for run in stream(row.shape[2]).push(timeline)]
        videos.append(torch.cat(pieces).transpose(0, 1))
    return torch.stack(videos)


def check_frames(frames: Tensor, geometry: LatentGeometry) -> None:
    """Raise InputError unless frames (b, 3, t, h, w) fit the strides of a codec."""
    if frames.ndim != 5 or frames.shape[1] != 3:
        raise InputError(f"frames must be (b, 3, t, h, w), not {tuple(frames.shape)}")
    t, h, w = frames.shape[2:]
    if t % geometry.temporal_stride != 1 % geometry.temporal_stride:
        raise InputError(f"{t} frames cannot be encoded: give {geometry.temporal_stride}k + 1")
    if h % geometry.spatial_stride or w % geometry.spatial_stride:
        raise InputError(f"{w}x{h} is not divisible by {geometry.spatial_stride}: crop it first")
