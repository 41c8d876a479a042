"""Known latents -> what one section sees: one group of frames per patchify kernel.

Training and generation call the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recurvid.errors import ComponentError, InputError
from recurvid.latents import LatentFrames
from recurvid.packing.kernel import Kernel
from recurvid.packing.layout import Layout, layout
from recurvid.packing.schedule import PackingSchedule
from recurvid.packing.tails import tail_group
from recurvid.sections import Section

Discretizer = Callable[[Tensor], Tensor]
"""(b, c, t, h, w) latents -> the same with every latent pixel replaced by its centroid."""


@dataclass(frozen=True)
class ContextGroup:
    """Frames that go through one kernel.

    Attributes:
        kernel: patchify kernel. Frames are raw latents, not pooled, not padded to the kernel.
        frames: data (b, c, t, h, w); index (b, t), the RoPE frame index.
    """

    kernel: Kernel
    frames: LatentFrames


@dataclass(frozen=True)
class PackedContext:
    """What one section sees beside its own noise.

    Attributes:
        groups: in the order of the model's tokens: coarsest kernel first, ``k1`` last; one per
            kernel, within it in timeline order (released scripts: the start picture, then the
            1x history). A tail (``ta``, ``tc``) is one more group, before the others, smaller in
            height and width.
    """

    groups: tuple[ContextGroup, ...]

    def to(self, *, device: torch.device | str, dtype: torch.dtype | None = None) -> PackedContext:
        """The same context on another device, the data in another floating point type."""
        return PackedContext(
            tuple(
                ContextGroup(group.kernel, group.frames.to(device=device, dtype=dtype))
                for group in self.groups
            )
        )


@dataclass(frozen=True)
class Packed:
    """A context, and the RoPE frame index (b, t) int64 of the frames to be made."""

    context: PackedContext
    target_index: Tensor


def pack(
    schedule: PackingSchedule,
    section: Section,
    timeline: LatentFrames,
    *,
    discretize: Discretizer | None = None,
) -> Packed:
    """Pack the context of one section.

    Args:
        schedule: the schedule that the section was planned for.
        section: what is made from what.
        timeline: latents known so far, in any order; index = absolute timeline position. A
            position that is not there becomes a zero latent. Nothing of ``section.frames`` is read.
            A tail (``ta``, ``tc``) reads all frames beyond the slots, so in training the timeline
            must end where the plan does.
        discretize: needed for ``+D`` schedules, applied to history and not to anchors.

    Raises:
        InputError: the section was planned for another schedule.
        ComponentError: a ``+D`` schedule without ``discretize``.
    """
    return pack_batch(schedule, [section] * timeline.data.shape[0], timeline, discretize=discretize)


def pack_batch(
    schedule: PackingSchedule,
    sections: Sequence[Section],
    timeline: LatentFrames,
    *,
    discretize: Discretizer | None = None,
) -> Packed:
    """Like `pack`, with a section of its own for each sample of the batch (gaps may differ)."""
    if len(sections) != timeline.data.shape[0]:
        raise InputError(f"{len(sections)} sections for a batch of {timeline.data.shape[0]}")
    if schedule.discretized and discretize is None:
        raise ComponentError(f"schedule {schedule}: +D needs a codebook, and none was given")
    layouts = [_layout(schedule, section) for section in sections]
    quantize = discretize if schedule.discretized else None
    collected: dict[Kernel, list[LatentFrames]] = {kernel: [] for kernel in schedule.kernels}
    taken = {"anchor": 0, "history": 0}
    for number, slots in enumerate(layouts[0].groups):
        start = taken[slots.role]
        taken[slots.role] = stop = start + slots.group.frames
        positions = [_positions(section, slots.role)[start:stop] for section in sections]
        data = _gather(timeline, positions, quantize if slots.role == "history" else None)
        index = _rows([each.groups[number].index for each in layouts], timeline)
        collected[slots.group.kernel].append(LatentFrames(data, index))
    groups = [ContextGroup(kernel, _join(parts, kernel)) for kernel, parts in collected.items()]
    tail = tail_group(schedule, sections, layouts, timeline)
    if tail is not None:
        frames = LatentFrames(quantize(tail.data), tail.index) if quantize else tail
        groups.insert(0, ContextGroup(schedule.tail_kernel, frames))
    target = _rows([each.target for each in layouts], timeline)
    return Packed(PackedContext(tuple(groups)), target)


def _layout(schedule: PackingSchedule, section: Section) -> Layout:
    made = len(section.lead) + len(section.target)
    expected = (schedule.generated, schedule.history_frames, schedule.anchor_frames)
    if (made, len(section.history), len(section.anchors)) != expected:
        raise InputError(f"section {section.index} was not planned for schedule {schedule}")
    return layout(schedule, section.gap, lead=len(section.lead))


def _positions(section: Section, role: str) -> list[int | None]:
    """Slots of one role; None where the section would read what it is about to make."""
    made = {*section.lead, *section.target}
    slots = section.history if role == "history" else section.anchors
    return [None if position in made else position for position in slots]


def _rows(rows: Sequence[Sequence[int]], like: LatentFrames) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64, device=like.data.device)


def _gather(
    timeline: LatentFrames, positions: list[list[int | None]], quantize: Discretizer | None
) -> Tensor:
    """Frames (b, c, s, h, w) at absolute positions, zeros where there is none."""
    index = timeline.index.tolist()
    where = [{position: at for at, position in enumerate(row)} for row in index]
    source = [[known.get(p, -1) for p in row] for known, row in zip(where, positions, strict=True)]
    columns = _rows(source, timeline)  # (b, s), -1 = absent
    absent = columns < 0
    if not timeline.frames:
        return timeline.data.new_zeros(
            *timeline.data.shape[:2], columns.shape[1], *timeline.data.shape[3:]
        )
    batch = torch.arange(columns.shape[0], device=columns.device)[:, None]
    data = timeline.data[batch, :, columns.clamp(min=0)].transpose(1, 2)  # (b, c, s, h, w)
    data = data if quantize is None else quantize(data)
    return data.masked_fill(absent[:, None, :, None, None], 0)


def _join(parts: list[LatentFrames], kernel: Kernel) -> LatentFrames:
    """Groups of one kernel as one tensor.

    Where there are several, each is padded in time to the kernel by repeating its last frame, so
    that no token mixes two groups; alone, padding is left to the model, which does the same.
    """
    if len(parts) == 1:
        return parts[0]
    padded = [_pad_time(part, -part.frames % kernel.t) for part in parts]
    return LatentFrames(
        torch.cat([part.data for part in padded], dim=2),
        torch.cat([part.index for part in padded], dim=1),
    )


def _pad_time(frames: LatentFrames, extra: int) -> LatentFrames:
    if not extra:
        return frames
    return LatentFrames(
        torch.cat([frames.data, frames.data[:, :, -1:].expand(-1, -1, extra, -1, -1)], dim=2),
        torch.cat([frames.index, frames.index[:, -1:].expand(-1, extra)], dim=1),
    )
