"""The RoPE frame index of every slot of a schedule.

As in the released scripts: indices count through the schedule's fields in timeline order, and the
gap is skipped over (random-access RoPE, paper section 3.3). Inverted: start 0, the gap, nine
targets, 1 + 2 + 16 history frames. F1: start 0, 16 + 2 + 1 history frames, nine targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recurvid.errors import InputError
from recurvid.packing.kernel import FrameGroup
from recurvid.packing.notation import Gap, Run, Target
from recurvid.packing.schedule import PackingSchedule


@dataclass(frozen=True)
class GroupSlots:
    """The RoPE frame indices of one group of the schedule."""

    role: Literal["anchor", "history"]
    group: FrameGroup
    index: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """RoPE frame indices in timeline order.

    Attributes:
        target: of the frames made; with a lead, the lead comes first.
        groups: of the context, group by group in timeline order.
    """

    target: tuple[int, ...]
    groups: tuple[GroupSlots, ...]

    @property
    def anchors(self) -> tuple[int, ...]:
        """Indices of the anchor slots."""
        return self._of("anchor")

    @property
    def history(self) -> tuple[int, ...]:
        """Indices of the history slots."""
        return self._of("history")

    def _of(self, role: str) -> tuple[int, ...]:
        return tuple(i for slots in self.groups if slots.role == role for i in slots.index)


def layout(schedule: PackingSchedule, gap: int = 0, *, lead: int = 0) -> Layout:
    """Lay a schedule out.

    Args:
        schedule: what is where.
        gap: latent frames skipped at ``x``.
        lead: that many of the generated frames lie before the gap and the others after it, next
            to the anchor (first run of the endpoint order); 0 otherwise.

    Raises:
        InputError: a gap without ``x``, a negative one, or a lead that the schedule cannot have.
    """
    if gap < 0 or (gap and not schedule.has_gap):
        raise InputError(f"schedule {schedule}: no room for a gap of {gap} frames")
    if lead and not (schedule.anchors_after and schedule.has_gap and lead < schedule.generated):
        raise InputError(f"schedule {schedule}: a lead needs gN_x_ and an anchor after it")
    target: tuple[int, ...] = ()
    groups: list[GroupSlots] = []
    at = 0
    for place, field in enumerate(schedule.fields):
        if isinstance(field, Target):
            jump = gap if lead else 0
            target = (*range(at, at + lead), *range(at + lead + jump, at + jump + field.frames))
            at += jump + field.frames
        elif isinstance(field, Gap) and not lead:
            at += gap
        elif isinstance(field, Run):
            role = "history" if place == schedule.notation.history else "anchor"
            for group in field.groups:
                groups.append(GroupSlots(role, group, tuple(range(at, at + group.frames))))
                at += group.frames
    return Layout(target, tuple(groups))
