"""Decoding in temporal tiles on one grid anchored at the start of the timeline.

Tile j covers ``length`` latents from latent ``stride * j``. Its frames begin where its first
latent ends (the first tile's at the picture itself), and its first ``blend`` frames are faded in
over the last ones of the tile before it. That is what diffusers' ``AutoencoderKLHunyuanVideo``
does inside one ``decode`` of all latents (``_temporal_tiled_decode``; 5 latents, stride 3, 4 frames
blended); on a fixed grid the tiles can be decoded one by one, in whatever order their latents
arrive, to the same bits and at 15 latents for 9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recurvid.latents import LatentFrames
from recurvid.vae.codec import LatentBuffer, PixelFrames, merged, missing, runs


@dataclass(frozen=True)
class TileGrid:
    """Where the tiles of a timeline lie.

    Attributes:
        latent_frames: length of the timeline.
        length, stride: of a tile, in latents.
        blend: frames over which neighbours are faded; at most the frames of ``stride``.
        temporal_stride: pixel frames a latent.
    """

    latent_frames: int
    length: int = 5
    stride: int = 3
    blend: int = 4
    temporal_stride: int = 4

    @property
    def tiles(self) -> range:
        """Numbers of the tiles that have frames; one latent behind the first adds none.

        A timeline shorter than a tile is one tile, as in diffusers.
        """
        if self.latent_frames < self.length:
            return range(1)
        return range(-(-(self.latent_frames - 1) // self.stride))

    def latents(self, tile: int) -> range:
        """Timeline latents of a tile; the last ones are cut at the end."""
        start = tile * self.stride
        return range(start, min(start + self.length, self.latent_frames))

    def over(self, latent: int) -> range:
        """The tiles that a latent belongs to."""
        first = max(0, -(-(latent - self.length + 1) // self.stride))
        return range(first, min(latent // self.stride + 1, self.tiles.stop))

    def frames(self, tile: int) -> range:
        """Timeline frames that a tile gives: its faded head first, its neighbour's head not."""
        first = 0 if tile == 0 else self._end_of(tile * self.stride)
        last = self.latent_frames - 1
        if tile + 1 in self.tiles:
            last = min(last, (tile + 1) * self.stride)
        return range(first, self._end_of(last))

    def head(self, tile: int) -> range:
        """The frames that are faded in from the tile before."""
        frames = self.frames(tile)
        return range(frames.start, frames.start if tile == 0 else self._cut(frames))

    def body(self, tile: int) -> range:
        """The frames that are final as soon as the tile is decoded."""
        return range(self.head(tile).stop, self.frames(tile).stop)

    def _cut(self, frames: range) -> int:
        return min(frames.start + self.blend, frames.stop)

    def _end_of(self, latent: int) -> int:
        return self.temporal_stride * latent + 1


class TileStream:
    """A ``DecodeStream`` over a tile grid: each tile is decoded once.

    Between calls it holds the latents of undecoded tiles and, at the border of what is known, the
    blended frames of one side. All of that is bounded by the tile size, not by the length.
    """

    def __init__(
        self,
        decode_tile: Callable[[Tensor], Tensor],
        grid: TileGrid,
        finished: Sequence[range] = (),
    ):
        self._decode_tile = decode_tile
        self._grid = grid
        self._finished = merged(finished)
        self._latents = LatentBuffer(grid.latent_frames)
        self._waiting = {tile for tile in grid.tiles if self._is_needed(tile)}
        self._heads: dict[int, Tensor] = {}
        self._tails: dict[int, Tensor] = {}

    def push(self, latents: LatentFrames) -> Iterator[PixelFrames]:
        """See ``DecodeStream.push``."""
        self._latents.add(latents)
        self._forget()
        return self._decode_ready()

    def provisional(self, shown: Sequence[range]) -> Iterator[PixelFrames]:
        """See ``DecodeStream.provisional``: heads that wait for the tile before, not faded yet.

        No tile is decoded for show: two thirds of a section are there without, and the rest would
        take a third of a section's decode.
        """
        for tile in sorted(self._heads):
            head = self._grid.head(tile).start
            yield from runs(head, self._heads[tile], (*self._finished, *shown))

    def _decode_ready(self) -> Iterator[PixelFrames]:
        near = {tile for i in self._latents for tile in self._grid.over(i)} & self._waiting
        for tile in sorted(near):
            if self._latents.has(self._grid.latents(tile)):
                yield from self._decode(tile)
                self._forget()

    def _decode(self, tile: int) -> Iterator[PixelFrames]:
        grid = self._grid
        self._waiting.discard(tile)
        with torch.no_grad():
            decoded = self._decode_tile(self._latents.get(grid.latents(tile)))
        if tile > 0:
            decoded = decoded[:, :, 1:]  # the first latent of a tile belongs to the one before
        head, frames = len(grid.head(tile)), len(grid.frames(tile))
        if self._misses(grid.head(tile)):
            self._heads[tile] = decoded[:, :, :head].clone()
        if tile + 1 in grid.tiles and self._misses(grid.head(tile + 1)):
            self._tails[tile] = decoded[:, :, -grid.blend :].clone()
        yield from self._faded(tile)
        yield from runs(grid.body(tile).start, decoded[:, :, head:frames], self._finished)
        yield from self._faded(tile + 1)

    def _faded(self, tile: int) -> Iterator[PixelFrames]:
        if tile not in self._heads or tile - 1 not in self._tails:
            return
        faded = fade_in(self._tails.pop(tile - 1), self._heads.pop(tile))
        yield from runs(self._grid.head(tile).start, faded, self._finished)

    def _misses(self, frames: range) -> bool:
        return bool(missing(frames, self._finished))

    def _is_needed(self, tile: int) -> bool:
        grid = self._grid
        after = grid.head(tile + 1) if tile + 1 in grid.tiles else range(0)
        return self._misses(grid.frames(tile)) or self._misses(after)

    def _forget(self) -> None:
        self._latents.keep_only(
            {i for i in self._latents if any(t in self._waiting for t in self._grid.over(i))}
        )


def fade_in(before: Tensor, after: Tensor) -> Tensor:
    """Fade from the end of ``before`` (b, c, t, h, w) into ``after``, over the shorter of the two.

    The weight of ``after`` in frame x of n is x / n, as in diffusers' ``blend_t``.
    """
    extent = min(before.shape[2], after.shape[2])
    faded = after.clone()
    for x in range(extent):
        old, new = before[:, :, x - extent], after[:, :, x]
        faded[:, :, x] = old * (1 - x / extent) + new * (x / extent)
    return faded
