"""BlockSource: where the weights of streamed blocks wait, packed one block after the other.

``MappedSource`` reads them from wherever they lie, a memory-mapped checkpoint as a rule, through a
small ring of pinned buffers that threads fill. ``PinnedSource`` keeps each block in pinned memory
of its own once it was asked for: fast, and as large as the blocks are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from torch import Tensor

from recurvid.memory.host_buffer import HostBuffer, fill
from recurvid.memory.layout import BlockLayout


@runtime_checkable
class Mark(Protocol):
    """A point in a device's work, as a CUDA event is one."""

    def synchronize(self) -> None:
        """Block the host until the device has passed the point."""
        ...


@runtime_checkable
class BlockSource(Protocol):
    """Weights of blocks on the host, handed out as one flat uint8 buffer a block."""

    @property
    def layouts(self) -> Sequence[BlockLayout]:
        """Of each block."""
        ...

    def at_rest(self, block: int) -> Mapping[str, Tensor]:
        """The block's tensors on the host, for as long as it is not on the device."""
        ...

    def prepare(self, block: int) -> None:
        """Begin to fetch a block; returns soon."""
        ...

    def ready(self, block: int) -> bool:
        """Whether ``staged`` would return without waiting."""
        ...

    def staged(self, block: int) -> Tensor:
        """The block's bytes, (layout.size,) uint8, valid until ``done``; waits for them."""
        ...

    def done(self, block: int, copied: Mark) -> None:
        """The buffer is free once ``copied`` has passed."""
        ...

    def close(self) -> None:
        """Give back buffers and threads."""
        ...


class MappedSource:
    """Blocks read from their tensors at rest through a ring of buffers that threads fill.

    Args:
        tensors: of each block, on the CPU: memory-mapped, so that reading them is reading the
            file and their memory is page cache.
        ring: buffers. Three let one be filled, one be copied and one be waited for.
        pin: whether the buffers are pinned, for a CUDA device.
        threads: that fill one buffer together.
    """

    def __init__(
        self,
        tensors: Sequence[Mapping[str, Tensor]],
        *,
        ring: int = 3,
        pin: bool = False,
        threads: int = 4,
    ):
        self._tensors = [dict(block) for block in tensors]
        self._layouts = [BlockLayout.of(block) for block in self._tensors]
        self._pin = pin
        self._buffers: list[HostBuffer | None] = [None] * ring
        self._free: dict[int, Mark | None] = dict.fromkeys(range(ring))
        self._used: dict[int, tuple[int, list[Future[None]]]] = {}
        self._threads = max(1, threads)
        self._pool: ThreadPoolExecutor | None = None

    @property
    def layouts(self) -> Sequence[BlockLayout]:
        """Of each block."""
        return self._layouts

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the ring, as far as it is allocated."""
        return sum(len(b.data) for b in self._buffers if b is not None)

    def at_rest(self, block: int) -> Mapping[str, Tensor]:
        """The tensors as they were given."""
        return self._tensors[block]

    def prepare(self, block: int) -> None:
        """Begin to fill a buffer, if one is free."""
        if block in self._used or not self._free:
            return
        slot = next(iter(self._free))
        mark = self._free.pop(slot)
        if mark is not None:
            mark.synchronize()
        self._used[block] = (
            slot,
            fill(
                self._buffer(slot)[: self._layouts[block].size],
                self._layouts[block],
                self._tensors[block],
                self._workers(),
            ),
        )

    def ready(self, block: int) -> bool:
        """Whether the buffer is full."""
        return block in self._used and all(part.done() for part in self._used[block][1])

    def staged(self, block: int) -> Tensor:
        """The full buffer; what was fetched in vain gives way to it."""
        if block not in self._used and not self._free:
            self._forget(next(iter(self._used)))
        self.prepare(block)
        slot, parts = self._used[block]
        for part in parts:
            part.result()
        return self._buffer(slot)[: self._layouts[block].size]

    def done(self, block: int, copied: Mark) -> None:
        """The buffer is free once ``copied`` has passed."""
        slot, _ = self._used.pop(block)
        self._free[slot] = copied

    def close(self) -> None:
        """Give back buffers and threads; both come again when needed."""
        for block in list(self._used):
            self._forget(block)
        for mark in self._free.values():
            if mark is not None:
                mark.synchronize()
        self._free = dict.fromkeys(self._free)
        for buffer in self._buffers:
            if buffer is not None:
                buffer.close()
        self._buffers = [None] * len(self._buffers)
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _forget(self, block: int) -> None:
        slot, parts = self._used.pop(block)
        for part in parts:
            part.exception()  # waits; the bytes are not wanted any more
        self._free[slot] = None

    def _buffer(self, slot: int) -> Tensor:
        buffer = self._buffers[slot]
        if buffer is None:
            size = max(layout.size for layout in self._layouts)
            buffer = self._buffers[slot] = HostBuffer(size, pin=self._pin)
        return buffer.data

    def _workers(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="recurvid-blocks")
        return self._pool


class PinnedSource:
    """Blocks that stay in pinned memory from their first use on.

    Only blocks that are streamed are ever asked for, so only they are kept. The first pass is as
    slow as reading the file.

    Args:
        tensors, pin, threads: as for ``MappedSource``.
    """

    def __init__(
        self, tensors: Sequence[Mapping[str, Tensor]], *, pin: bool = False, threads: int = 4
    ):
        self._tensors: list[Mapping[str, Tensor]] = [dict(block) for block in tensors]
        self._layouts = [BlockLayout.of(block) for block in self._tensors]
        self._pin = pin
        self._buffers: dict[int, HostBuffer] = {}
        self._filling: dict[int, list[Future[None]]] = {}
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="recurvid-blocks")

    @property
    def layouts(self) -> Sequence[BlockLayout]:
        """Of each block."""
        return self._layouts

    @property
    def buffer_bytes(self) -> int:
        """Bytes of pinned memory held."""
        return sum(len(buffer.data) for buffer in self._buffers.values())

    def at_rest(self, block: int) -> Mapping[str, Tensor]:
        """As given; once the block is pinned, views of that copy, and the given ones are let go."""
        return self._tensors[block]

    def prepare(self, block: int) -> None:
        """Begin to copy a block into pinned memory, if it is not there."""
        if block in self._buffers:
            return
        layout = self._layouts[block]
        buffer = self._buffers[block] = HostBuffer(layout.size, pin=self._pin)
        self._filling[block] = fill(buffer.data, layout, self._tensors[block], self._pool)

    def ready(self, block: int) -> bool:
        """Whether the block is in pinned memory."""
        return block in self._buffers and all(p.done() for p in self._filling.get(block, ()))

    def staged(self, block: int) -> Tensor:
        """The block's own buffer."""
        self.prepare(block)
        buffer = self._buffers[block].data
        if block in self._filling:
            for part in self._filling[block]:
                part.result()
            del self._filling[block]
            self._tensors[block] = self._layouts[block].views(buffer)
        return buffer

    def done(self, block: int, copied: Mark) -> None:
        """Nothing to free."""

    def close(self) -> None:
        """Stop the threads. The blocks stay; they are the weights."""
        for parts in self._filling.values():
            for part in parts:
                part.exception()
        self._pool.shutdown()
        for buffer in self._buffers.values():
            buffer.close()
