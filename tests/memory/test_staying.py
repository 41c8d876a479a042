from __future__ import annotations

import pytest

from recurvid.memory.budget import PhaseNeed, place_phase
from recurvid.memory.staying import spread, staying

# As a large model's whose first blocks of each kind are left in 16 bits: 20 of 4, then 40 of 2.
KEPT = (8, 8, 8, *(4,) * 17, 5, 5, 5, *(2,) * 37)


@pytest.mark.parametrize(
    ("sizes", "count", "numbers"),
    [
        ((9, 9, 4, 4, 4, 4), 0, ()),
        ((9, 9, 4, 4, 4, 4), 2, (2, 4)),  # evenly apart
        ((9, 9, 4, 4, 4, 4), 5, (0, 2, 3, 4, 5)),
        ((9, 9, 4, 4, 4, 4), 6, (0, 1, 2, 3, 4, 5)),
        ((), 0, ()),
        (KEPT, 3, (0, 1, 2)),  # the few that are larger than all others
        (KEPT, 5, (0, 1, 2, 20, 21)),  # and the next ones, as few together
        (KEPT, 8, (0, 1, 2, 20, 21, 22, 23, 41)),
        ((3, *(1,) * 9), 1, (0,)),
        ((3, *(1,) * 8), 1, (1,)),  # one of nine is not so few
    ],
)
def test_which_stay(sizes, count, numbers):
    assert staying(sizes, count) == numbers


@pytest.mark.parametrize("count", range(61))
def test_as_many_as_asked(count):
    assert len(set(staying(KEPT, count))) == count


def test_a_plan_does_not_make_its_buffers_as_large_as_a_few_blocks():
    need = PhaseNeed("denoise", 0, 0, KEPT)
    plan = place_phase(need, 3 * 8 + 2 * 5)
    assert (plan.resident, plan.slots, plan.slot_bytes) == ((0, 1, 2), 2, 10)
    plan = place_phase(need, 3 * 8 + 3 * 5 + 2 * 4 + 4)
    assert (plan.resident_bytes, plan.slot_bytes) == (24 + 15 + 4, 8)
    assert place_phase(need, 16).slot_bytes == 16  # no room for them


def test_spread():
    assert spread(0, 40) == ()
    assert spread(4, 40) == (0, 10, 20, 30)
    assert spread(40, 40) == tuple(range(40))
