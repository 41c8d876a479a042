"""Tails: what becomes of frames that are older than every history slot.

Paper section 3.1: delete (``td``), append (``ta``: every frame pooled by (1, 32, 32)), compress
(``tc``: one global average over all tail frames); the latter two go through the kernel of the
farthest history. Both come padded to whole kernels by repetition, so that their latent sizes are
even; their tokens stand at the top left of the frame, since nothing finer is known of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from recurvid.errors import InputError
from recurvid.latents import LatentFrames
from recurvid.packing.kernel import Kernel
from recurvid.packing.layout import Layout
from recurvid.packing.schedule import TAIL_POOL, PackingSchedule
from recurvid.sections import ABSENT, Section


def tail_group(
    schedule: PackingSchedule,
    sections: Sequence[Section],
    layouts: Sequence[Layout],
    timeline: LatentFrames,
) -> LatentFrames | None:
    """The tail of each sample, or None without one.

    Its RoPE index goes on from the farthest history slot, away from the target (below 0 when
    history starts at 0); a compressed tail takes the first such index.

    Returns:
        data (b, c, t, h', w') in whole kernels of ``schedule.tail_kernel``; index (b, t).

    Raises:
        InputError: samples of one batch have tails of different lengths.
    """
    if schedule.tail in (None, "td"):
        return None
    rows = [
        _columns(schedule, section, index)
        for section, index in zip(sections, timeline.index.tolist(), strict=True)
    ]
    if len({len(row) for row in rows}) > 1:
        raise InputError(f"schedule {schedule}: tails of one batch must have one length")
    if not rows[0]:
        return None
    columns = torch.tensor(rows, device=timeline.data.device)  # (b, t), timeline order
    batch = torch.arange(len(rows), device=columns.device)[:, None]
    data = timeline.data[batch, :, columns].transpose(1, 2)  # (b, c, t, h, w)
    forward = schedule.direction == "forward"
    first = [each.history[0] if forward else each.history[-1] + 1 for each in layouts]
    count = 1 if schedule.tail == "tc" else len(rows[0])
    index = torch.tensor(
        [list(range(at - count, at) if forward else range(at, at + count)) for at in first],
        device=columns.device,
    )
    pooled = data.mean(dim=(2, 3, 4), keepdim=True) if schedule.tail == "tc" else _pool(data)
    return _whole_kernels(pooled, index, schedule.tail_kernel)


def _columns(schedule: PackingSchedule, section: Section, index: list[int]) -> list[int]:
    """Where in the timeline tensor the tail's frames are, in timeline order."""
    if ABSENT in (section.history[0], section.history[-1]):
        return []  # not even the slots are full
    run = (*section.lead, *section.target)
    if schedule.direction == "forward":
        limit = run[0] - schedule.history_frames
        beyond = [(p, at) for at, p in enumerate(index) if p < limit]
    else:
        limit = run[-1] + schedule.history_frames
        beyond = [(p, at) for at, p in enumerate(index) if p > limit]
    return [at for p, at in sorted(beyond) if p not in section.anchors]


def _pool(data: Tensor) -> Tensor:
    """Mean over 32 x 32 latent pixels; at the edges over what there is."""
    window = (1, min(TAIL_POOL, data.shape[3]), min(TAIL_POOL, data.shape[4]))
    return functional.avg_pool3d(data, window, ceil_mode=True, count_include_pad=False)


def _whole_kernels(data: Tensor, index: Tensor, kernel: Kernel) -> LatentFrames:
    t, h, w = data.shape[2:]
    pad = (0, -w % kernel.w, 0, -h % kernel.h, 0, -t % kernel.t)
    tail = index[:, -1:].expand(-1, -t % kernel.t)
    return LatentFrames(
        functional.pad(data, pad, mode="replicate"), torch.cat([index, tail], dim=1)
    )
