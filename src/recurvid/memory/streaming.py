"""StreamedBlocks: an nn.ModuleList whose iteration brings each block to the device in time.

The model keeps its plain ``for block in self.blocks:``. Its parameters are tensors on the host as
long as a block rests; while the block is yielded they are views of a buffer on the device. Names,
modules and forward methods stay what they are, so a block compiles as it always does.

::

    copies   | 1 |  2  |  3  |  4  |        block i+1 is copied while block i computes
    compute      |  1   |  2   |  3   |     a buffer is used again when its block has computed
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from recurvid.memory.block_stream import BlockStream
from recurvid.memory.layout import tensors_of
from recurvid.memory.sources import MappedSource


class StreamedRun:
    """Some of the blocks of a StreamedBlocks, in order: what its slices are."""

    def __init__(self, stream: BlockStream, numbers: Sequence[int]):
        self._stream, self._numbers = stream, numbers

    def __iter__(self) -> Iterator[nn.Module]:
        return self._stream.visit(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


class StreamedBlocks(nn.ModuleList):
    """A ModuleList over a part of a BlockStream. Iterating streams; an index gives a block at rest.

    ``to()``, ``cuda()`` and ``half()`` of a model that holds it leave its blocks alone: the stream
    decides where they are.

    Args:
        stream: of all blocks that share the buffers.
        first: number of this list's first block in it.
        count: of this list's blocks.
    """

    def __init__(self, stream: BlockStream, first: int = 0, count: int | None = None):
        stop = len(stream.blocks) if count is None else first + count
        super().__init__(stream.blocks[first:stop])
        self.stream = stream
        self._numbers = range(first, stop)

    def __iter__(self) -> Iterator[nn.Module]:
        return self.stream.visit(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return StreamedRun(self.stream, self._numbers[index])
        return self.stream.blocks[self._numbers[index]]

    def _apply(self, fn: Any, recurse: bool = True) -> StreamedBlocks:
        del fn, recurse
        return self


def streamed(blocks: nn.ModuleList, device: torch.device, resident: int) -> StreamedBlocks:
    """The same blocks, on the CPU, streamed from where they lie; the first ``resident`` stay.

    For a model that runs once: nothing is kept in memory.
    """
    modules = list(blocks.children())
    pin = device.type == "cuda"
    source = MappedSource([tensors_of(block) for block in modules], pin=pin)
    stream = BlockStream(modules, source, device, resident=range(min(resident, len(modules))))
    return StreamedBlocks(stream)
