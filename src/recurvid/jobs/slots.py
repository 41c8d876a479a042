"""Slots: one worker a device, kept by locks that the system drops with the process.

A job names the slot it runs in. While a process holds that slot's lock, the job's worker lives,
however long it is silent; once the lock can be had, it is dead, and nothing has to be waited for.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from recurvid.errors import InputError, SessionError
from recurvid.generation.lock import folder_lock

_DEVICE = re.compile(r"[a-z]{1,16}(:\d{1,3})?", re.ASCII)


def slot_of(device: str) -> str:
    """The slot of a device's name: "cuda:1" -> "cuda-1".

    Raises:
        InputError: that is no device's name.
    """
    if not _DEVICE.fullmatch(device):
        raise InputError(f"device {device[:40]!r} is not a name such as auto, cpu or cuda:0")
    return device.replace(":", "-")


@contextmanager
def held(home: Path, slot: str, role: str = "worker") -> Generator[bool]:
    """Try to hold a slot; yields whether it is ours.

    Args:
        role: "worker" for who runs its jobs, "supervisor" for who starts that worker.
    """
    folder = home / "workers" / f"{slot}.{role}"
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(folder))
        except SessionError:
            yield False
        else:
            yield True
