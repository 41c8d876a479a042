"""The original's way of decoding, as an option: two sections at a time, cross-faded.

After each section but the first, it and the section before it (in generation) are decoded together
(18 latents, 19 where the start picture joins) and the result is faded into the frames that exist,
over the frames of one section ((9 - 1) * 4 + 1 = 33). Frames differ a little from one decode of
all latents, and every latent is decoded about twice; it is here to compare with the original.
Source: FramePack's demo scripts; ``_soft_append`` of diffusers' ``HunyuanVideoFramepackPipeline``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recurvid.errors import InputError
from recurvid.latents import LatentFrames, LatentGeometry
from recurvid.vae.codec import Codec, LatentBuffer, PixelFrames, merged, missing, runs


@dataclass(frozen=True)
class FadeStep:
    """What happens when a section has arrived.

    Attributes:
        window: latents that are decoded together.
        frames: timeline frames that they give.
        final: of these, the frames that no later section changes.
    """

    window: range
    frames: range
    final: range


def fade_steps(sections: Sequence[range], geometry: LatentGeometry) -> list[FadeStep]:
    """One step a section, in the order of generation.

    Args:
        sections: targets of equal length that, with latent 0, make up the timeline, from the end
            (inverted) or from the start (forward).

    Raises:
        InputError: another order, which the original does not know.
    """
    inverted = _is_inverted(sections)
    size = len(sections[0])
    overlap = geometry.frames(size)
    steps: list[FadeStep] = []
    for number, section in enumerate(sections):
        first, last = number == 0, number == len(sections) - 1
        if inverted:
            start = 0 if last else section.start
            window = range(start, section.stop if first else section.stop + size)
            stop = geometry.frames(section.stop + (0 if first else size))
            frames = range(stop - geometry.frames(len(window)), stop)
            final = range(frames.start + (0 if last else overlap), frames.stop)
        else:
            window = range(0 if first else section.start - size, section.stop)
            stop = geometry.frames(section.stop)
            frames = range(stop - geometry.frames(len(window)), stop)
            final = range(frames.start, frames.stop - (0 if last else overlap))
        steps.append(FadeStep(window, frames, final))
    return steps


class CrossFadeStream:
    """A ``DecodeStream`` that gives the frames of the original, in its two orders.

    After each section one run of frames is final; the frames at its open end wait for the next.

    Args:
        codec: decodes each window as a whole.
        sections: target of every section in the order of generation; see ``fade_steps``.
        finished: as in ``Codec.stream``.
    """

    def __init__(self, codec: Codec, sections: Sequence[range], finished: Sequence[range] = ()):
        self._codec = codec
        self._steps = fade_steps(sections, codec.geometry)
        self._overlap = codec.geometry.frames(len(sections[0]))
        self._inverted = _is_inverted(sections)
        self._finished = merged(finished)
        self._latents = LatentBuffer(1 + sum(len(section) for section in sections))
        self._next = 0
        self._open: Tensor | None = None

    def push(self, latents: LatentFrames) -> Iterator[PixelFrames]:
        """See ``DecodeStream.push``."""
        self._latents.add(latents)
        return self._decode_ready()

    def provisional(self, shown: Sequence[range]) -> Iterator[PixelFrames]:
        """See ``DecodeStream.provisional``: in the inverted order what waits to be faded into."""
        if self._open is not None and self._inverted:
            start = self._steps[self._next - 1].frames.start
            yield from runs(start, self._open, (*self._finished, *shown))

    def _decode_ready(self) -> Iterator[PixelFrames]:
        ready: list[FadeStep] = []
        for step in self._steps[self._next :]:
            if not self._latents.has(step.window):
                break
            ready.append(step)
        # In one call runs come in timeline order, so what several steps give has to be gathered.
        pieces = [list(self._add(step)) for step in ready]
        self._forget()
        yield from itertools.chain(*(reversed(pieces) if self._inverted else pieces))

    def _add(self, step: FadeStep) -> Iterator[PixelFrames]:
        self._next += 1
        following = self._steps[self._next : self._next + 1]
        before, self._open = self._open, None
        if not any(missing(s.final, self._finished) for s in (step, *following)):
            return
        frames = self._codec.decode(self._latents.get(step.window))
        cut = self._overlap
        if following:
            self._open = (frames[:, :, :cut] if self._inverted else frames[:, :, -cut:]).clone()
        if before is not None:  # None at the first section, or where all frames exist already
            if self._inverted:
                frames[:, :, -cut:] = cross_fade(frames[:, :, -cut:], before)
            else:
                frames[:, :, :cut] = cross_fade(before, frames[:, :, :cut])
        first = step.final.start - step.frames.start
        final = frames[:, :, first : first + len(step.final)]
        yield from runs(step.final.start, final, self._finished)

    def _forget(self) -> None:
        left = self._steps[self._next :]
        self._latents.keep_only({i for i in self._latents if any(i in s.window for s in left)})


def cross_fade(before: Tensor, after: Tensor) -> Tensor:
    """From all of ``before`` (b, c, t, h, w) to all of ``after``, linearly over t frames."""
    weight = torch.linspace(1, 0, before.shape[2], dtype=before.dtype, device=before.device)
    weight = weight.view(1, 1, -1, 1, 1)
    return weight * before + (1 - weight) * after


def _is_inverted(sections: Sequence[range]) -> bool:
    size = len(sections[0]) if sections else 0
    forward = [range(1 + size * i, 1 + size * (i + 1)) for i in range(len(sections))]
    if not size or list(sections) not in (forward, forward[::-1]):
        raise InputError(
            "the cross-faded decode is only for whole sections from the end or from the start; "
            "use the tiled decode for this order"
        )
    return list(sections) == forward[::-1]
