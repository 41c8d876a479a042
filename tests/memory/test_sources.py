"""Where blocks wait: buffers, threads, and what CUDA is told."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from torch import nn

from recurvid.memory import host_buffer
from recurvid.memory.host_buffer import HostBuffer
from recurvid.memory.layout import BlockLayout, tensors_of
from recurvid.memory.residency import Turns, limit_allocator, visiting
from recurvid.memory.sources import MappedSource, PinnedSource


class Passed:
    def synchronize(self) -> None:
        pass


def blocks(count: int = 4) -> list[dict[str, torch.Tensor]]:
    return [
        {
            "weight": torch.randn(3, 5 + i).bfloat16(),
            "codes": torch.randint(-127, 127, (7, i + 1), dtype=torch.int8),
            "scale": torch.rand(7),
            "count": torch.tensor(i),
        }
        for i in range(count)
    ]


def test_layout_is_aligned_and_gives_the_tensors_back():
    (tensors,) = blocks(1)
    layout = BlockLayout.of(tensors)
    assert layout.offsets == (0, 256, 512, 768)
    assert layout.size == 1024
    flat = torch.zeros(2000, dtype=torch.uint8)
    views = layout.views(flat)
    for name, tensor in tensors.items():
        views[name].copy_(tensor)
    assert all(layout.views(flat)[name].equal(tensor) for name, tensor in tensors.items())


def test_layout_of_meta_tensors():
    with torch.device("meta"):
        layout = BlockLayout.of(tensors_of(nn.Linear(1000, 10)))
    assert layout.size == math.ceil(40_000 / 256) * 256 + 256


@pytest.mark.parametrize("kind", [MappedSource, PinnedSource])
def test_blocks_come_whole_in_any_order(kind, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_buffer, "CHUNK", 16)  # many pieces
    tensors = blocks()
    source = kind(tensors, threads=3)
    for number in (2, 0, 3, 1, 1, 2):
        source.prepare((number + 1) % 4)
        views = source.layouts[number].views(source.staged(number))
        assert all(views[name].equal(tensor) for name, tensor in tensors[number].items())
        source.done(number, Passed())
    source.close()


def test_a_ring_is_small_and_pinned_blocks_are_kept():
    tensors = blocks()
    largest = max(BlockLayout.of(block).size for block in tensors)
    total = sum(BlockLayout.of(block).size for block in tensors)
    for source, size in (
        (MappedSource(tensors, ring=2), 2 * largest),
        (PinnedSource(tensors), total),
    ):
        for number in range(4):
            source.staged(number)
            source.done(number, Passed())
        assert source.buffer_bytes == size
        source.close()


def test_pinned_blocks_replace_what_they_were_copied_from():
    tensors = blocks()
    source = PinnedSource(tensors)
    flat = source.staged(1)
    rest = source.at_rest(1)["weight"]
    assert rest.equal(tensors[1]["weight"])
    assert flat.data_ptr() <= rest.data_ptr() < flat.data_ptr() + len(flat)
    assert source.at_rest(2)["weight"] is tensors[2]["weight"]


class Cudart:
    def __init__(self):
        self.registered: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        assert flags == 0
        self.registered[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        del self.registered[address]
        return 0


def test_memory_is_not_registered_any_longer_than_it_is_held(monkeypatch: pytest.MonkeyPatch):
    cudart = Cudart()
    monkeypatch.setattr(host_buffer, "_cudart", lambda: cudart)
    one, two = HostBuffer(1000, pin=True), HostBuffer(3000, pin=True)
    assert sorted(cudart.registered.values()) == [1000, 3000]  # not a power of two
    one.close()
    one.close()
    assert list(cudart.registered.values()) == [3000]
    del two
    gc.collect()
    assert not cudart.registered


def test_visitors_leave_as_they_were_even_after_an_error():
    layer = nn.Linear(3, 3).requires_grad_(False)
    before = layer.weight.data_ptr()

    def visit() -> None:
        with visiting(torch.device("cpu"), layer, None):
            layer.weight.data = torch.zeros(3, 3)  # as if it had been elsewhere
            raise KeyError

    with pytest.raises(KeyError):
        visit()
    assert layer.weight.data_ptr() == before


def test_turns():
    diary: list[str] = []
    turns = Turns(torch.device("cpu"))

    def take(name: str) -> None:
        turns.take(name, lambda: diary.append(f"+{name}"), lambda: diary.append(f"-{name}"))

    for name in ("a", "a", "b", "a"):
        take(name)
    turns.end()
    turns.end()
    assert diary == ["+a", "-a", "+b", "-b", "+a", "-a"]
    assert turns.current is None


@pytest.mark.parametrize(("name", "number"), [("cuda", 5), ("cuda:0", 0), ("cuda:1", 1)])
def test_the_allocator_is_limited(monkeypatch: pytest.MonkeyPatch, name: str, number: int):
    limits: list[tuple[float, object]] = []

    class Card:
        total_memory = 8000

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *given: limits.append(given)
    )
    limit_allocator(torch.device(name), 2000)
    limit_allocator(torch.device(name), 9000)
    limit_allocator(torch.device("cpu"), 1)
    assert limits == [(0.25, number), (1.0, number)]
