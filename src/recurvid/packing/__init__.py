"""Packing: which latents one section sees, how coarsely, and at which positions."""

from recurvid.packing.kernel import FrameGroup, Kernel
from recurvid.packing.layout import GroupSlots, Layout, layout
from recurvid.packing.pack import ContextGroup, Packed, PackedContext, pack, pack_batch
from recurvid.packing.schedule import PackingSchedule, TokenCount

__all__ = [
    "ContextGroup",
    "FrameGroup",
    "GroupSlots",
    "Kernel",
    "Layout",
    "Packed",
    "PackedContext",
    "PackingSchedule",
    "TokenCount",
    "layout",
    "pack",
    "pack_batch",
]
