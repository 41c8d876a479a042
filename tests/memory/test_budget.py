from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recurvid.errors import ComponentError, InputError
from recurvid.memory.budget import (
    GIB,
    MemoryBudget,
    PhaseNeed,
    gib,
    place,
    place_phase,
)


@pytest.mark.parametrize(
    ("vram", "process", "allocator"),
    [(4, 3.7, 2.9), (6, 5.3, 4.5), (8, 7.3, 6.5), (24, 23.3, 22.5)],
)
def test_what_a_card_leaves(vram, process, allocator):
    budget = MemoryBudget.of(vram)
    assert budget.process / GIB == pytest.approx(process, abs=1e-6)
    assert budget.allocator / GIB == pytest.approx(allocator, abs=1e-6)


@pytest.mark.parametrize("vram", [0.5, -1, 5000, float("nan"), float("inf")])
def test_no_such_card(vram):
    with pytest.raises(InputError, match="vram"):
        MemoryBudget.of(vram)


def need(*blocks: int, weights: int = 10, work: int = 20) -> PhaseNeed:
    return PhaseNeed("denoise", weights, work, blocks)


@pytest.mark.parametrize(
    ("limit", "resident", "slots", "device"),
    [
        (100, (0, 1, 2, 3), 0, 60),  # all of 10 + 10 + 5 + 5
        (60, (0, 1, 2, 3), 0, 60),
        (59, (2,), 2, 55),  # the second small one would make 60
        (55, (2,), 2, 55),
        (50, (), 2, 50),
        (49, (2,), 1, 45),
        (44, (), 1, 40),
        (40, (), 1, 40),
    ],
)
def test_resident_blocks_take_what_is_left(limit, resident, slots, device):
    plan = place_phase(need(10, 10, 5, 5), limit)
    assert (plan.resident, plan.slots, plan.device) == (resident, slots, device)
    assert plan.shortage == 0


def test_shortage_in_bytes():
    plan = place_phase(need(10, 10), 39)
    assert (plan.slots, plan.device, plan.shortage) == (1, 40, 1)
    assert place_phase(need(), 29).shortage == 1
    assert place_phase(need(), 30).shortage == 0


@given(
    st.lists(st.integers(1, 50), max_size=8),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 400),
)
@settings(max_examples=200, deadline=None)
def test_a_plan_keeps_its_limit_and_loses_no_block(blocks, weights, work, limit):
    plan = place_phase(PhaseNeed("x", weights, work, tuple(blocks)), limit)
    assert plan.shortage or plan.device <= limit
    assert sum(plan.streamed) + plan.resident_bytes == sum(blocks)
    assert (plan.slots > 0) == (len(plan.streamed) > 0)
    if plan.shortage:
        assert not plan.resident
        assert weights + work + max(blocks, default=0) > limit


def large(again: int) -> PhaseNeed:
    return PhaseNeed("denoise", 0, 0, (GIB,) * again, kept=True)


@pytest.mark.parametrize(
    ("ram", "source", "process"),
    [
        (None, "mapped", 6),  # 3 for the process, a ring of 3 blocks
        (16, "mapped", 6),
        (29, "mapped", 6),
        (30, "pinned", 26),  # 20 blocks, the process, a ring for the resident; 4 left to others
    ],
)
def test_where_blocks_wait(ram, source, process):
    budget = MemoryBudget.of(5, ram=None if ram is None else ram * GIB)
    placement = place(budget, [large(21)])
    assert len(placement.phases[0].resident) == 1  # of 3.7 GiB, two are slots
    assert (placement.source, placement.ram) == (source, process * GIB)
    assert placement.cache == (20 * GIB if source == "mapped" else 0)


def test_a_short_stream_is_read_once_and_never_kept():
    once = PhaseNeed("text", 0, 0, (GIB,) * 21)
    assert place(MemoryBudget.of(4, ram=100 * GIB), [once]).source == "device"


def test_refusals_name_numbers():
    budget = MemoryBudget.of(4, ram=5 * GIB, swap=GIB // 2, disk=GIB)
    placement = place(budget, [large(21), PhaseNeed("decode", 0, 9 * GIB)], disk=2 * GIB)
    with pytest.raises(ComponentError) as caught:
        placement.refuse("framepack at 832x480")
    text = str(caught.value)
    assert "\n" not in text
    for piece in (
        "framepack at 832x480 does not fit",
        "decode takes 9.0 GiB",
        "2.9 GiB of 4.0 GiB",
        "6.0 GiB of system memory, 5.0 GiB are free and 0.5 GiB of swap",
        "writes 2.0 GiB, 1.0 GiB of disk",
        "--size",
    ):
        assert piece in text
    assert "denoise" not in text  # that fits


def test_what_fits_is_not_refused():
    placement = place(MemoryBudget.of(4, ram=6 * GIB, disk=GIB), [large(21)], disk=GIB)
    placement.refuse("x")
    assert placement.fits


def test_gib():
    assert gib(int(4.71 * GIB)) == "4.7 GiB"
