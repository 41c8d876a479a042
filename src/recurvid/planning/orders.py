"""Orders: in which sequence the sections of a video are made, and what each one sees.

Every order is a function of schedule and `Wish`; `ORDERS` names them. Timeline position 0 is the
start picture; n sections of g frames make positions 1 .. n*g. The paper draws them in figure 2:

inverted   last section first, each with the start picture as anchor, down to the start
forward    first section first (vanilla; F1 adds the start picture as anchor)
endpoint   frame 1 and the end together, then forward towards that end
planned    endpoints one after another, then the gaps between them (v3, figure 2-d)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from recurvid.errors import InputError
from recurvid.packing import PackingSchedule
from recurvid.sections import ABSENT, Section, SectionPlan

MAX_SECTIONS = 100_000
SEGMENT = 4
"""Sections from endpoint to endpoint in the planned order, unless asked otherwise: the gap is then
at most three sections, the largest that the released inverted model is given."""


@dataclass(frozen=True)
class Wish:
    """What a plan is made for.

    Attributes:
        sections: how many.
        exact_gaps: inverted order: the true distances instead of the released script's clamp.
        end_picture: an end picture stands one past the last frame.
        endpoints: how many the planned order makes.
    """

    sections: int
    exact_gaps: bool = False
    end_picture: bool = False
    endpoints: int = 1


Order = Callable[[PackingSchedule, Wish], list[Section]]


def plan(
    order: str,
    schedule: PackingSchedule,
    sections: int,
    *,
    exact_gaps: bool = False,
    end_picture: bool = False,
    prompt_starts: Sequence[int] = (0,),
    endpoints: int | None = None,
) -> SectionPlan:
    """Plan a video.

    Args:
        order: a name in `ORDERS`.
        schedule: must be of the kind that the order needs.
        sections: 1 to `MAX_SECTIONS`; the timeline gets ``sections * generated + 1`` latent frames.
        exact_gaps: inverted order: no clamp of the gap to 2 or 3 sections.
        end_picture: add the position one past the last frame to ``given``.
        prompt_starts: timeline latent frame at which each prompt begins, ascending from 0; a
            section follows the prompt that holds in the middle of its target.
        endpoints: planned order only; by default one every `SEGMENT` sections, at least one a
            prompt.

    Raises:
        InputError: an unknown order, a schedule of another kind, an impossible number.
    """
    if order not in ORDERS:
        raise InputError(f"unknown order {order!r}; there are {', '.join(sorted(ORDERS))}")
    if type(sections) is not int or not 1 <= sections <= MAX_SECTIONS:
        raise InputError(f"{sections} sections: a video has 1 to {MAX_SECTIONS}")
    starts = tuple(prompt_starts)
    if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
        raise InputError("prompts must start at ascending times, the first at 0")
    if endpoints is None:
        endpoints = min(sections, max(-(-sections // SEGMENT), len(starts)))
    if not 1 <= endpoints <= sections:
        raise InputError(f"{endpoints} endpoints: there must be 1 to {sections}, one a section")
    made = ORDERS[order](schedule, Wish(sections, exact_gaps, end_picture, endpoints))
    length = _length(schedule, sections)
    given = (0, length) if end_picture else (0,)
    made = [replace(section, prompt=_prompt(section, starts)) for section in made]
    return SectionPlan(order, str(schedule), tuple(_blindfolded(made, given)), length, given)


def implied_order(schedule: PackingSchedule) -> str:
    """The order that a schedule is written for, as the paper's notation implies it."""
    if schedule.direction == "inverted":
        return "inverted"
    return "endpoint" if schedule.anchors_after else "forward"


def inverted(schedule: PackingSchedule, wish: Wish) -> list[Section]:
    """Last section first, as the released script (and paper section 3.3).

    Gaps are [n-1, ..., 1, 0] sections, from five sections on [3, 2, ..., 2, 1, 0], which the
    script's author found to look better. An end picture is seen by the first section only.
    """
    if schedule.direction != "inverted":
        raise InputError(f"order inverted needs history after gN: f1k1_x_g9_…, not {schedule}")
    n, g = wish.sections, schedule.generated
    end = _length(schedule, n)
    gaps = list(reversed(range(n)))
    if n > 4 and not wish.exact_gaps:
        gaps = [3] + [2] * (n - 3) + [1, 0]
    before = sum(group.frames for group in schedule.anchors_before)
    after = schedule.anchor_frames - before
    last = range(end, end + after) if wish.end_picture else range(end - after, end)
    sections: list[Section] = []
    for index, gap in enumerate(gaps):
        target = _block(n - 1 - index, g)
        history = range(target.stop, target.stop + schedule.history_frames)
        hidden = end if wish.end_picture and index else None
        sections.append(
            Section(
                index,
                target,
                gap=gap * g if schedule.has_gap else 0,
                history=tuple(ABSENT if p == hidden else p for p in history),
                anchors=(*range(1 - before, 1), *last),
            )
        )
    return sections


def forward(schedule: PackingSchedule, wish: Wish) -> list[Section]:
    """First section first: vanilla, and F1 when the schedule has the start picture as anchor.

    F1's first section sees the start picture twice, as anchor and as newest history.
    """
    if schedule.direction != "forward" or schedule.anchors_after:
        raise InputError(f"order forward needs …_gN with nothing after it, not {schedule}")
    if wish.end_picture:
        raise InputError("an end picture needs the order inverted, endpoint or planned")
    return [
        _onward(schedule, index, _block(index, schedule.generated), ())
        for index in range(wish.sections)
    ]


def endpoint(schedule: PackingSchedule, wish: Wish) -> list[Section]:
    """Anti-drifting with one endpoint (paper section 3.3): `planned` with a single one."""
    return _planned(schedule, replace(wish, endpoints=1), "endpoint")


def planned(schedule: PackingSchedule, wish: Wish) -> list[Section]:
    """Several endpoints, then the gaps (paper v3, figure 2-d).

    The timeline falls into segments of about equal length. For each in turn one run makes the
    segment's first frame (the lead) and its last g - 1 frames together, seeing what exists just
    before the lead: the last endpoint. Then every gap is filled forwards, with the first frame of
    the endpoint ahead as anchor. Gaps are exact: no released script clamps them.
    """
    return _planned(schedule, wish, "planned")


def _planned(schedule: PackingSchedule, wish: Wish, name: str) -> list[Section]:
    if schedule.direction != "forward" or not schedule.anchors_after:
        raise InputError(f"order {name} needs …_gN_x_f1k1 (an endpoint), not {schedule}")
    n, g = wish.sections, schedule.generated
    bounds = [n * i // wish.endpoints * g for i in range(wish.endpoints + 1)]
    after = sum(group.frames for group in schedule.anchors_after)
    lead = 1 if g > 1 else 0
    sections: list[Section] = []
    for start, stop in pairwise(bounds):
        target = range(stop + 1 - (g - lead), stop + 1)
        first = range(start + 1, start + 1 + lead)
        # The anchor of this run lies beyond what it makes: an end picture, or nothing yet.
        # Without room for a lead (g1) the endpoint is laid out as if it came directly after.
        ahead = tuple(range(target.stop, target.stop + after))
        run = _onward(schedule, len(sections), range(start + 1, stop + 1), ahead)
        gap = target.start - first.stop if lead else 0
        sections.append(replace(run, target=target, lead=tuple(first), gap=gap))
    for start, stop in pairwise(bounds):
        end = stop + 1 - (g - lead)
        for at in range(start + 1 + lead, end, g):
            ahead = tuple(range(end, end + after))
            run = _onward(schedule, len(sections), range(at, at + g), ahead)
            sections.append(replace(run, gap=end - run.target.stop))
    return sections


def _onward(
    schedule: PackingSchedule, index: int, target: range, ahead: tuple[int, ...]
) -> Section:
    """A section whose history ends where its target begins; anchors are the oldest frames."""
    oldest = target.start - schedule.history_frames
    before = sum(group.frames for group in schedule.anchors_before)
    gap = max(0, oldest - before) if schedule.has_gap and not ahead else 0
    history = tuple(range(oldest, target.start))
    return Section(index, target, gap, history, anchors=(*range(before), *ahead))


def _block(number: int, generated: int) -> range:
    """Timeline frames of the section ``number`` of the timeline (0 touches the start picture)."""
    return range(1 + number * generated, 1 + (number + 1) * generated)


def _length(schedule: PackingSchedule, sections: int) -> int:
    return sections * schedule.generated + 1


def _prompt(section: Section, starts: tuple[int, ...]) -> int:
    middle = section.target[len(section.target) // 2]
    return max(number for number, start in enumerate(starts) if start <= middle)


def _blindfolded(sections: list[Section], given: tuple[int, ...]) -> list[Section]:
    """The same sections, with slots emptied whose frame does not exist when the section is made.

    While generating they would be zero anyway; in training, where the clip goes on behind the end
    of the plan, they would show the model what it will never see.
    """
    known = set(given)
    blindfolded: list[Section] = []
    for section in sections:
        history, anchors = (
            tuple(p if p < 0 or p in known else ABSENT for p in slots)
            for slots in (section.history, section.anchors)
        )
        blindfolded.append(replace(section, history=history, anchors=anchors))
        known.update(section.frames)
    return blindfolded


ORDERS: dict[str, Order] = {
    "endpoint": endpoint,
    "forward": forward,
    "inverted": inverted,
    "planned": planned,
}
