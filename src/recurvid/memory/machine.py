"""What this machine has left: system memory, swap and device memory, at this moment."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_GROUP = Path("/sys/fs/cgroup")
_INFO = Path("/proc/meminfo")


def available_memory(info: Path = _INFO, group: Path = _GROUP) -> tuple[int | None, int]:
    """(available bytes or None, free swap), page cache counted as available.

    A control group's limit (a container's) counts where it is lower. Linux only; elsewhere the
    first is what sysconf says, or None.
    """
    fields = _fields(info)
    free = fields.get("MemAvailable")
    if free is None:
        return _sysconf(), 0
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    if limit is None or used is None:
        return free, fields.get("SwapFree", 0)
    # File pages are dropped when the group needs room.
    reclaimable = _fields(group / "memory.stat", unit=1)
    used -= reclaimable.get("inactive_file", 0) + reclaimable.get("active_file", 0)
    return min(free, max(0, limit - used)), fields.get("SwapFree", 0)


def free_on(device: torch.device) -> int:
    """Free bytes of a CUDA device, with what this process has taken there counted as free."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def _fields(path: Path, unit: int = 1024) -> dict[str, int]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.replace(":", " ").split() for line in lines)
    return {p[0]: int(p[1]) * unit for p in pairs if len(p) > 1 and p[1].isdigit()}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None  # "max": no limit


def _sysconf() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
