from __future__ import annotations

import pytest
import torch

from recurvid.generation.history import History
from recurvid.latents import LatentFrames
from recurvid.packing import PackingSchedule
from recurvid.planning import plan
from recurvid.sections import SectionPlan

INVERTED = "f1k1_x_g9_f1k1f2k2f16k4_td"


def frames(positions: list[int]) -> LatentFrames:
    """Latents whose value is their timeline position."""
    data = torch.tensor(positions, dtype=torch.float32).view(1, 1, -1, 1, 1).expand(1, 2, -1, 4, 4)
    return LatentFrames.of(data, positions)


class Reader:
    def __init__(self, planned: SectionPlan):
        self.plan = planned
        self.read: list[int] = []

    def __call__(self, index: int) -> LatentFrames:
        self.read.append(index)
        return frames(list(self.plan.sections[index].frames))


def history(
    order: str, text: str, sections: int, **options: bool
) -> tuple[SectionPlan, Reader, History]:
    schedule = PackingSchedule.parse(text)
    planned = plan(order, schedule, sections, **options)  # type: ignore[arg-type]
    reader = Reader(planned)
    return planned, reader, History(planned, schedule, frames(list(planned.given)), reader)


def test_the_first_section_sees_the_picture_alone() -> None:
    planned, reader, past = history("inverted", INVERTED, 3)
    known = past.before(planned.sections[0])
    assert known.index.tolist() == [[0]]
    assert reader.read == []


def test_a_later_section_sees_what_its_slots_ask_for() -> None:
    planned, reader, past = history("inverted", INVERTED, 5)
    known = past.before(planned.sections[3])  # makes 10..18; history is 19..37
    assert known.index.tolist() == [[0, *range(19, 38)]]
    assert torch.equal(known.data[0, 0, :, 0, 0], known.index[0].float())
    assert reader.read == [0, 1, 2]


def test_old_sections_are_not_read_again() -> None:
    planned, reader, past = history("inverted", INVERTED, 100)
    past.before(planned.sections[99])
    assert reader.read == [96, 97, 98]


def test_a_tail_reads_everything() -> None:
    planned, reader, past = history("inverted", INVERTED.replace("_td", "_tc"), 6)
    known = past.before(planned.sections[5])
    assert reader.read == [0, 1, 2, 3, 4]
    assert known.index.tolist() == [[0, *range(10, 55)]]


def test_an_end_picture_is_seen_by_the_first_section() -> None:
    planned, _, past = history("inverted", INVERTED, 3, end_picture=True)
    assert past.before(planned.sections[0]).index.tolist() == [[0, 28]]


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ("forward", "f1k1_f16k4f2k2f1k1_g9"),
        ("endpoint", "td_f16k4f4k2f1k1_g9_x_f1k1"),
        ("planned", "td_f16k4f4k2f1k1_g9_x_f1k1"),
        ("inverted", INVERTED),
    ],
)
def test_nothing_that_is_made_later_is_seen(order: str, text: str) -> None:
    planned, _, past = history(order, text, 7)
    made = set(planned.given)
    for section in planned.sections:
        known = {int(i) for i in past.before(section).index[0]}
        assert known <= made
        assert known == {*section.history, *section.anchors} & made
        made.update(section.frames)
