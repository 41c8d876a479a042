"""Disk: how much room there is for jobs, and when there is too little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from recurvid.errors import LimitError, Line
from recurvid.jobs.limits import FULL, Limits


@runtime_checkable
class DiskUsage(Protocol):
    """What ``shutil.disk_usage`` returns."""

    @property
    def total(self) -> int:
        """Bytes."""
        ...

    @property
    def free(self) -> int:
        """Bytes."""
        ...


class Disk:
    """The disk below a home.

    Args:
        usage: ``shutil.disk_usage``, or a stand-in.
    """

    def __init__(self, home: Path, limits: Limits, usage: Callable[[Path], DiskUsage]):
        self._home, self._limits, self._usage = home, limits, usage

    def short(self) -> Line | None:
        """Why no job is begun: less is free than is kept free. None when there is room."""
        disk = self._usage(self._home)
        reserve = self._limits.reserve(disk.total)
        if disk.free >= reserve:
            return None
        return Line(
            f"the disk is nearly full ({disk.free / 1e6:.0f} MB free, {reserve / 1e6:.0f} MB "
            "are kept free); the queue goes on by itself when there is room",
            "disk.short",
            free=f"{disk.free / 1e6:.0f} MB",
            kept=f"{reserve / 1e6:.0f} MB",
        )

    def is_out(self) -> bool:
        """Whether even a running job should stop: most of what is kept free is used up."""
        disk = self._usage(self._home)
        return disk.free < self._limits.reserve(disk.total) // 4

    def check(self) -> None:
        """Raise LimitError where a new job would take the room that running ones need."""
        disk = self._usage(self._home)
        if disk.free < self._limits.reserve(disk.total) // 2:
            raise LimitError(*FULL)
