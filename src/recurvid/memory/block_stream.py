"""BlockStream: blocks go round through a few buffers on a device, or stay there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from recurvid.errors import ComponentError
from recurvid.memory.copies import CopyStream, copies_for
from recurvid.memory.layout import setters_of
from recurvid.memory.sources import BlockSource, Mark


class BlockStream:
    """Moves blocks through a few buffers on the device, in a circle: after the last, the first.

    One stream may serve several lists of blocks that a model runs one after the other; so the
    first block of the second list is copied while the last of the first one computes, and the
    next step's first block while this step ends.

    Args:
        blocks: in the order in which they run.
        source: their weights, block by block.
        device: where they run.
        resident: numbers of the blocks that stay on the device.
        slots: buffers for the others; 2 let a copy run beside the computation.
        patient: whether an iteration that stops early leaves the stream as it is, for the next
            one; for an owner that calls ``release`` itself after an error.
        copies: how copies are made; by default what fits the device.
        arrivals: through which resident blocks come, once; by default ``source``. It is closed
            when all are there.
    """

    def __init__(  # noqa: PLR0913 - what is moved, whereto, and how much of it
        self,
        blocks: Sequence[nn.Module],
        source: BlockSource,
        device: torch.device,
        *,
        resident: Collection[int] = (),
        slots: int = 2,
        patient: bool = False,
        copies: CopyStream | None = None,
        arrivals: BlockSource | None = None,
    ):
        self.blocks = tuple(blocks)
        self.source = source
        self.arrivals = arrivals or source
        self.device = device
        self.slots = slots
        self.patient = patient
        self._copies = copies or copies_for(device)
        self._setters = [
            setters_of(block, layout.names)
            for block, layout in zip(self.blocks, source.layouts, strict=True)
        ]
        self._resident = set(resident)
        self._placed: dict[int, Tensor] = {}
        self._reserved: dict[int, Tensor] = {}
        self._free: list[tuple[Tensor, Mark]] | None = None
        self._loaded: dict[int, tuple[Tensor, Mark]] = {}
        self._running: set[int] = set()

    @property
    def resident(self) -> frozenset[int]:
        """Numbers of the blocks that stay."""
        return frozenset(self._resident)

    @property
    def live(self) -> frozenset[int]:
        """Numbers of the streamed blocks that have a buffer on the device at this moment."""
        return frozenset(self._loaded)

    @property
    def device_bytes(self) -> int:
        """Bytes of buffers on the device."""
        slots = [flat for flat, _ in (*(self._free or ()), *self._loaded.values())]
        kept = (*self._placed.values(), *self._reserved.values())
        return sum(len(flat) for flat in (*slots, *kept))

    def visit(self, numbers: Sequence[int]) -> Iterator[nn.Module]:
        """Yield blocks, each on the device while the caller has it.

        If the caller stops early, by an exception too, everything leaves the device as soon as
        this iterator is let go of.
        """
        try:
            self._allocate()
            for number in numbers:
                self._begin(number)
                yield self.blocks[number]
                self._end(number)
        except GeneratorExit:
            if self.patient:
                self._rest()
            else:
                self.release()
            raise
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Take everything off the device; it comes back with the next visit."""
        self._copies.drain()
        for number in (*self._running, *self._placed):
            self._set(number, self.source.at_rest(number))
        self._running.clear()
        self._placed.clear()
        self._reserved.clear()
        self._loaded.clear()
        self._free = None

    def resize(self, resident: Collection[int], slots: int) -> None:
        """Release, and use that much of the device from the next visit on."""
        self.release()
        self._resident, self.slots = set(resident), slots

    def shrink(self) -> None:
        """Release, and from now on use less of the device: it has less than was planned.

        Raises:
            ComponentError: there is nothing left to give up.
        """
        self.release()
        if self._resident:
            kept = sorted(self._resident)
            # Evenly thinned, as they were chosen: copies then hide behind resident neighbours.
            self.resize(kept[1::2] if len(kept) > 3 else (), max(self.slots, 1))
        elif self.slots > 1:
            self.slots = 1
        else:
            raise ComponentError(
                "out of device memory with one block at a time; close other programs that use "
                "the device, or ask for a smaller size"
            )

    def _rest(self) -> None:
        """Let go of the block that is in use; what was fetched for the next ones stays."""
        for number in list(self._running):
            self._finish(number)

    def _finish(self, number: int) -> None:
        """The block has been asked to compute; its buffer is free when it has."""
        self._running.discard(number)
        self._set(number, self.source.at_rest(number))
        flat, _ = self._loaded.pop(number)
        assert self._free is not None
        self._free.append((flat, self._copies.computed()))

    def _begin(self, number: int) -> None:
        if number in self._resident:
            if number not in self._placed:
                self._place(number)
        else:
            if number not in self._loaded:
                self._load(number)
            flat, copied = self._loaded[number]
            self._copies.await_copy(copied)
            self._running.add(number)
            self._set(number, self.source.layouts[number].views(flat))
        self._prefetch(number, wait=False)

    def _end(self, number: int) -> None:
        if number in self._running:
            self._finish(number)
        # Now that the device has work, waiting for threads that fill a buffer costs nothing.
        self._prefetch(number, wait=True)

    def _prefetch(self, number: int, *, wait: bool) -> None:
        """Begin to copy the blocks that come next, as far as buffers are free.

        Without ``wait`` only those whose bytes are at hand.
        """
        following = self._following(number, self.slots + 1)
        ahead = [other for other in following if other not in self._loaded]
        if wait:
            for other in ahead:
                self.source.prepare(other)
        for other in ahead:
            if not self._free or not (wait or self.source.ready(other)):
                break
            self._load(other)

    def _following(self, number: int, count: int) -> list[int]:
        """The next streamed blocks after one, in the circle, nearest first."""
        size = len(self.blocks)
        circle = ((number + step) % size for step in range(1, size))
        return [other for other in circle if other not in self._resident][:count]

    def _allocate(self) -> None:
        """Room for all blocks that stay and for the buffers, in one piece.

        Taken before anything is computed: blocks that come one by one would lie in what activations
        have left, and the next ones of these would find only gaps.
        """
        if self._free is not None:
            return
        sizes = [layout.size for layout in self.source.layouts]
        kept = sorted(self._resident)
        slot = max((size for i, size in enumerate(sizes) if i not in self._resident), default=0)
        buffers = [slot] * self.slots if slot else []
        whole = self._empty(sum(sizes[i] for i in kept) + sum(buffers))
        pieces = whole.split([*(sizes[i] for i in kept), *buffers])
        self._reserved = dict(zip(kept, pieces, strict=False))
        self._free = [(flat, self._copies.computed()) for flat in pieces[len(kept) :]]

    def _load(self, number: int) -> None:
        assert self._free is not None
        if not self._free:  # blocks are visited out of order: one was fetched in vain
            idle = next(i for i in self._loaded if i not in self._running)
            flat, copied = self._loaded.pop(idle)
            self._free.append((flat, copied))
        # Taken only when the bytes are there, so that an error before leaves the books in order.
        staged = self.source.staged(number)
        flat, computed = self._free.pop(0)
        self._copies.await_compute(computed)
        copied = self._copies.copy(flat[: len(staged)], staged)
        self._loaded[number] = flat, copied
        self.source.done(number, copied)

    def _place(self, number: int) -> None:
        """Bring a resident block to the device, where it stays."""
        layout = self.source.layouts[number]
        flat = self._reserved.pop(number)
        # The bytes may have served a computation that is still under way.
        self._copies.await_compute(self._copies.computed())
        copied = self._copies.copy(flat, self.arrivals.staged(number))
        self.arrivals.done(number, copied)
        self._copies.await_copy(copied)
        self._placed[number] = flat
        self._set(number, layout.views(flat))
        if number + 1 in self._resident - self._placed.keys():
            self.arrivals.prepare(number + 1)
        # Its buffers have done their work, unless streamed blocks come the same way.
        all_stay = len(self._resident) == len(self.blocks)
        if len(self._placed) == len(self._resident) and (
            all_stay or self.arrivals is not self.source
        ):
            self.arrivals.close()

    def _empty(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def _set(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        setters = self._setters[number]
        for name, tensor in tensors.items():
            setters[name](tensor)
