"""A model of torch's caching allocator for CUDA, and what a model's step asks of it.

Only what large pieces see: sizes rounded to 512 bytes, the smallest free piece that is large
enough, split if more than 1 MiB is left, else a new one from the card in steps of 2 MiB; at the
limit what is wholly free goes back first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MIB = 2**20


@dataclass(eq=False)
class Piece:
    size: int
    free: bool


@dataclass
class Allocator:
    """Raises MemoryError where torch's would say that the device is full."""

    limit: int
    segments: list[list[Piece]] = field(default_factory=list)

    @property
    def reserved(self) -> int:
        return sum(piece.size for segment in self.segments for piece in segment)

    def take(self, size: int) -> tuple[list[Piece], Piece] | None:
        size = -(-size // 512) * 512
        if size <= MIB:
            return None  # from another pool
        fitting = [
            (piece.size, number, at)
            for number, segment in enumerate(self.segments)
            for at, piece in enumerate(segment)
            if piece.free and piece.size >= size
        ]
        if not fitting:
            self._grow(20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB)
            return self.take(size)
        _, number, at = min(fitting)
        segment = self.segments[number]
        piece = segment[at]
        if piece.size - size > MIB:
            segment.insert(at + 1, Piece(piece.size - size, True))
            piece.size = size
        piece.free = False
        return segment, piece

    def give(self, taken: tuple[list[Piece], Piece] | None) -> None:
        if taken is None:
            return
        segment, piece = taken
        piece.free = True
        at = segment.index(piece)
        for beside in (at + 1, at - 1):
            if 0 <= beside < len(segment) and segment[beside].free:
                piece.size += segment.pop(beside).size

    def _grow(self, size: int) -> None:
        if self.reserved + size > self.limit:
            self.segments = [s for s in self.segments if any(not p.free for p in s)]
        if self.reserved + size > self.limit:
            raise MemoryError(f"{size / MIB:.0f} MiB beside {self.reserved / MIB:.0f}")
        self.segments.append([Piece(size, True)])


class Trace(TorchDispatchMode):
    """Tensors that come and go, on the meta device: ("+", number, bytes), ("-", number, 0)."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        named = (*model.parameters(), *model.buffers())
        self.weights = {p.untyped_storage()._cdata for p in named}
        self.events: list[tuple[str, int, int]] = []
        self._live: dict[int, tuple[int, int]] = {}
        self._count = 0

    def block(self, number: int) -> None:
        """Note that a block begins."""
        self._gone()
        self.events.append(("block", number, 0))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self._gone()
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.weights and storage._cdata not in self._live:
                    self._live[storage._cdata] = (self._count, storage._weak_ref())  # pyright: ignore
                    self.events.append(("+", self._count, storage.nbytes()))
                    self._count += 1
        return out

    def _gone(self) -> None:
        for key, (number, reference) in list(self._live.items()):
            if torch.UntypedStorage._expired(reference):
                self.events.append(("-", number, 0))
                del self._live[key]


def replay(
    events: Sequence[tuple[str, int, int]], plan, allocator: Allocator, *, in_one_piece: bool = True
) -> None:
    """A run's steps with the blocks of a plan on the card, in an allocator.

    Args:
        in_one_piece: whether blocks that stay and buffers take their room before the first block
            runs, or each when it is needed.

    Raises:
        MemoryError: the device is full.
    """
    sizes, held, waiting = plan.need.blocks, {}, set(plan.resident)
    slot = max(plan.streamed, default=0)
    allocator.take(plan.need.weights)
    begun = False
    for what, number, size in events:
        if what == "+":
            held[number] = allocator.take(size)
        elif what == "-":
            allocator.give(held.pop(number))
        elif in_one_piece and not begun:
            allocator.take(plan.resident_bytes + plan.slot_bytes)
        elif not in_one_piece:
            for _ in range(0 if begun else plan.slots):
                allocator.take(slot)
            if number in waiting:
                waiting.remove(number)
                allocator.take(sizes[number])
        begun = begun or what == "block"
