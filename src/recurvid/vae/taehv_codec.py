"""TAEHV behind ``Codec``: a causal decoder, frame by frame.

The frames of latent k depend on latents k-8 to k (see ``reach``), so they are final as soon as
those exist, or the timeline begins. In forward order the memory runs on and every latent is decoded
once. In inverted order a section begins with latents whose past is not there yet: they serve as
warm-up of the section behind them, and are decoded a second time when their own past has arrived.

One latent is decoded at a time and every layer always sees the same batch, so the bits do not
depend on where a run was cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurvid.latents import LatentFrames, LatentGeometry
from recurvid.vae.codec import (
    LatentBuffer,
    PixelFrames,
    check_frames,
    decode_whole,
    merged,
    missing,
    runs,
)
from recurvid.vae.taehv import TAEHV, MemBlock, Memory, TAEHVConfig, TGrow


def reach(decoder: nn.Sequential) -> list[int]:
    """How many latents earlier each layer's output has to be right; entry 0 is the input's.

    From the last layer back: a MemBlock needs one frame more of its input than of its output,
    and a TGrow gives ``stride`` frames for one. For the published layout (three MemBlocks at each
    of the rates 1, 1 and 2 frames a latent) the input reaches back ceil(3 / 2) + 3 + 3 = 8.
    """
    rate = math.prod(layer.stride for layer in decoder if isinstance(layer, TGrow))
    frames = 0
    latents = [0]
    for layer in reversed(decoder):
        if isinstance(layer, MemBlock):
            frames += 1
        elif isinstance(layer, TGrow):
            rate //= layer.stride
            frames = -(-frames // layer.stride)
        latents.append(-(-frames // rate))
    return latents[::-1]


#: How often the first latent that is there is repeated before it, where its past is missing: once
#: lifts the bundled model's first frame from 38 to 43 dB of the final one, more changes little.
STILL = 2


class DecoderRun:
    """One walk of the decoder along the timeline, latent by latent.

    Args:
        wanted: the first latent whose frames are asked for. The walk starts ``reach`` earlier
            (``position``), and there computes no more layers than the wanted frames need.
        warm_up: latents that it starts earlier at most, for frames that need not be exact.
    """

    def __init__(self, model: TAEHV, wanted: int, warm_up: int | None = None):
        self._model = model
        self._wanted = wanted
        self._reach = reach(model.decoder)
        self._memory: Memory = {}
        reach_back = self._reach[0] if warm_up is None else min(warm_up, self._reach[0])
        self.position = max(0, wanted - reach_back)

    def step(self, latent: Tensor) -> Tensor | None:
        """Decode the latent (1, c, 1, h, w) at ``position`` and move on.

        Returns:
            Its frames (1, 3, stride, 8h, 8w), about -1..1; None during the warm-up.
        """
        distance = self._wanted - self.position
        self.position += 1
        x = self._model.denormalize(latent)[:, :, 0]
        x = x.contiguous(memory_format=torch.channels_last)
        for number, layer in enumerate(self._model.decoder):
            needed = distance <= self._reach[number + 1]
            if isinstance(layer, MemBlock):
                previous = self._remember(number, x)
                x = layer(x, previous) if needed else x
            elif needed:
                x = layer(x)
            if not needed:
                return None
        pixels = F.pixel_shuffle(x, self._model.config.patch_size)  # (stride, 3, 8h, 8w)
        return (pixels * 2 - 1).transpose(0, 1).unsqueeze(0)

    def _remember(self, number: int, x: Tensor) -> Tensor:
        """The frame before each of x (t, c, h, w); the last of x stays for the next latent."""
        before = self._memory.get(number)
        before = torch.zeros_like(x[-1:]) if before is None else before
        self._memory[number] = x[-1:].clone()
        joined = torch.cat([before, x[:-1]])
        return joined.contiguous(memory_format=torch.channels_last)


class CausalStream:
    """A ``DecodeStream`` over a causal decoder. Holds the latents that undecided frames need."""

    def __init__(self, model: TAEHV, latent_frames: int, finished: Sequence[range] = ()):
        self._model = model
        self._geometry = geometry_of(model.config)
        self._reach = reach(model.decoder)[0]
        self._finished = merged(finished)
        self._latents = LatentBuffer(latent_frames)
        self._waiting = {
            k for k in range(latent_frames) if missing(self._frames(k), self._finished)
        }
        self._run: DecoderRun | None = None

    def push(self, latents: LatentFrames) -> Iterator[PixelFrames]:
        """See ``DecodeStream.push``."""
        self._latents.add(latents)
        self._forget()
        return self._decode_ready()

    def provisional(self, shown: Sequence[range]) -> Iterator[PixelFrames]:
        """See ``DecodeStream.provisional``: decoded as if the picture had stood still before."""
        have = (*self._finished, *shown)
        run: DecoderRun | None = None
        for latent in sorted(self._waiting.intersection(self._latents)):
            frames = self._frames(latent)
            if not missing(frames, have):
                continue
            first = self._first_before(latent)
            if run is None or run.position != latent:
                run = DecoderRun(self._model, latent, latent - first + STILL)
            decoded = None
            with torch.no_grad():
                while run.position <= latent:
                    position = max(run.position, first)
                    z = self._latents.get(range(position, position + 1))
                    decoded = run.step(_like(z, self._model))
            assert decoded is not None
            yield from runs(frames.start, decoded[:, :, -len(frames) :], have)

    def _first_before(self, latent: int) -> int:
        """The earliest latent from which on all are held, up to this one."""
        while self._latents.has(range(latent - 1, latent)):
            latent -= 1
        return latent

    def _decode_ready(self) -> Iterator[PixelFrames]:
        near = {k for i in self._latents for k in self._used_by(i)} & self._waiting
        for latent in sorted(k for k in near if self._latents.has(self._needs(k))):
            self._waiting.discard(latent)
            frames = self._frames(latent)
            decoded = self._decode(latent)
            yield from runs(frames.start, decoded[:, :, -len(frames) :], self._finished)
        self._forget()

    def _decode(self, latent: int) -> Tensor:
        if self._run is None or self._run.position != latent:
            self._run = DecoderRun(self._model, latent)
        decoded = None
        with torch.no_grad():
            while self._run.position <= latent:
                position = self._run.position
                z = self._latents.get(range(position, position + 1))
                decoded = self._run.step(_like(z, self._model))
        assert decoded is not None
        return decoded

    def _frames(self, latent: int) -> range:
        return self._geometry.pixel_range(range(latent, latent + 1))

    def _needs(self, latent: int) -> range:
        return range(max(0, latent - self._reach), latent + 1)

    def _forget(self) -> None:
        self._latents.keep_only(
            {i for i in self._latents if any(k in self._waiting for k in self._used_by(i))}
        )

    def _used_by(self, latent: int) -> range:
        return range(latent, latent + self._reach + 1)


class TAEHVCodec:
    """A TAEHV autoencoder as the rest of the program sees it.

    Args:
        module: in evaluation mode, on its device, in its dtype (float32 on a CPU: half precision
            convolutions are unusably slow there).
    """

    def __init__(self, module: TAEHV):
        self.module = module
        self.geometry = geometry_of(module.config)

    def encode(self, frames: Tensor) -> Tensor:
        """(b, 3, 4k+1, h, w) in -1..1 -> (b, c, k+1, h/8, w/8), as the backbone has them."""
        check_frames(frames, self.geometry)
        with torch.no_grad():
            return self.module.encode(_like(frames, self.module))

    def decode(self, latents: Tensor) -> Tensor:
        """(b, c, k+1, h, w) -> (b, 3, 4k+1, 8h, 8w) float32 on the CPU, about -1..1."""
        return decode_whole(self.stream, latents)

    def stream(self, latent_frames: int, finished: Sequence[range] = ()) -> CausalStream:
        """Frames as sections arrive, each latent decoded at most twice; see ``Codec.stream``."""
        return CausalStream(self.module, latent_frames, finished)


def geometry_of(config: TAEHVConfig) -> LatentGeometry:
    """Strides and channels of an autoencoder that is not built yet."""
    scale = config.patch_size * math.prod(config.decoder_space_scales)
    return LatentGeometry(config.latent_channels, config.temporal_stride, scale)


def _like(tensor: Tensor, model: TAEHV) -> Tensor:
    weight = next(model.parameters())
    return tensor.to(device=weight.device, dtype=weight.dtype)
