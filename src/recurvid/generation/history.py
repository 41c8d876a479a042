"""History: the latents so far, in timeline order, a few of them in memory at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch

from recurvid.latents import LatentFrames
from recurvid.packing.schedule import PackingSchedule
from recurvid.sections import Section, SectionPlan


class History:
    """Finished latents by timeline position, read back from the journal when a section needs them.

    A video of any length keeps no more in memory than the context of one section, unless the
    schedule keeps its tail (``ta``, ``tc``), which reads all frames.

    Args:
        plan: which section makes which frames.
        schedule: whose slots are looked up.
        given: latents of the user's pictures at their timeline positions, float32 on the CPU.
        read: section number -> its latents, index = timeline positions.
    """

    def __init__(
        self,
        plan: SectionPlan,
        schedule: PackingSchedule,
        given: LatentFrames,
        read: Callable[[int], LatentFrames],
    ):
        self._given = given
        self._read = read
        self._whole = schedule.tail in ("ta", "tc")
        self._maker = {
            position: section.index
            for section in plan.sections
            for position in (*section.lead, *section.target)
        }

    def before(self, section: Section) -> LatentFrames:
        """What exists when ``section`` starts and its context asks for: (1, c, t, h, w), float32.

        Positions come in timeline order; those that do not exist yet are left out.
        """
        if self._whole:
            wanted = {*self._maker, *(int(i) for i in self._given.index[0])}
        else:
            wanted = {*section.history, *section.anchors}
        frames = {int(i): slot for slot, i in enumerate(self._given.index[0])}
        found = {
            position: self._given.data[:, :, slot : slot + 1]
            for position, slot in frames.items()
            if position in wanted
        }
        makers = {self._maker[p] for p in wanted if p in self._maker and p not in found}
        for maker in sorted(makers):
            if maker < section.index:
                made = self._read(maker)
                for slot, position in enumerate(int(i) for i in made.index[0]):
                    if position in wanted:
                        found[position] = made.data[:, :, slot : slot + 1].clone()
        order = sorted(found)
        if not order:
            return LatentFrames.of(self._given.data[:, :, :0], [])
        return LatentFrames.of(torch.cat([found[p] for p in order], dim=2), order)
