"""Blocks of two shapes, and a device that checks what a real one would not notice in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recurvid.memory.block_stream import BlockStream
from recurvid.memory.layout import tensors_of
from recurvid.memory.sources import MappedSource, Mark, PinnedSource

CPU = torch.device("cpu")


class Block(nn.Module):
    """A linear with a buffer and a nested norm; ``wide`` ones have more to carry."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.body = nn.ModuleDict({"norm": nn.LayerNorm(hidden), "down": nn.Linear(hidden, width)})
        self.register_buffer("shift", torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body["down"](self.body["norm"](self.up(x)).relu()) + self.shift


class Model(nn.Module):
    """Two lists, one after the other, as the backbone has them."""

    def __init__(self, first: int = 3, second: int = 4):
        super().__init__()
        self.head = nn.Linear(6, 6)
        self.first = nn.ModuleList(Block(6, 20) for _ in range(first))
        self.second = nn.ModuleList(Block(6, 9) for _ in range(second))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        for block in self.first:
            x = block(x)
        for block in self.second:
            x = block(x)
        return x


class LateMark:
    def __init__(self) -> None:
        self.passed = False

    def synchronize(self) -> None:
        self.passed = True


class Late(LateMark):
    """A copy that is made when somebody waits for it, and not before: as late as is allowed."""

    def __init__(self, target: Tensor, source: Tensor, after: list[Mark]):
        super().__init__()
        self.target, self.source, self.after = target, source, list(after)

    def synchronize(self) -> None:
        if not self.passed:
            for mark in self.after:
                mark.synchronize()
            self.passed = True
            self.target.copy_(self.source)
            del self.target, self.source, self.after


class LateCopies:
    """A copy stream at its slowest. It poisons a target at once, so that early use shows."""

    def __init__(self) -> None:
        self.begun: list[Late] = []
        self.waits: list[Mark] = []
        self.drained = 0

    def copy(self, target: Tensor, source: Tensor) -> Late:
        target.fill_(255)  # NaN in every floating point type
        late = Late(target, source, self.waits + self.begun[-1:])
        self.begun.append(late)
        return late

    def await_copy(self, mark: Mark) -> None:
        mark.synchronize()

    def computed(self) -> LateMark:
        return LateMark()

    def await_compute(self, mark: Mark) -> None:
        self.waits.append(mark)

    def drain(self) -> None:
        self.drained += 1
        for late in self.begun:
            late.synchronize()
        self.begun.clear()
        self.waits.clear()


def stream_of(model: Model, kind: str = "mapped", **options) -> BlockStream:
    blocks = [*model.first.children(), *model.second.children()]
    make = {"mapped": MappedSource, "pinned": PinnedSource}[kind]
    source = make([tensors_of(block) for block in blocks], threads=2)
    return BlockStream(blocks, source, CPU, **options)
