"""Slots: one worker a device, kept by locks that the system drops with the process.

A job names the slot it runs in. While a process holds that slot's lock, the job's worker lives,
however long it is silent; once the lock can be had, it is dead, and nothing has to be waited for.

Slots go by the names of devices, and one piece of hardware may have several: ``auto``, ``cuda`` and
``cuda:0``. So a worker that works holds a second lock, that of the hardware itself.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from recurvid.errors import InputError, SessionError
from recurvid.generation.lock import folder_lock

#: Beside the lock of a hardware: the slot of the worker that has it.
_HOLDER = "slot"
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


@contextmanager
def hardware_held(home: Path, hardware: str, slot: str) -> Generator[bool]:
    """Try to hold a piece of hardware for the worker of a slot; yields whether it is ours.

    Args:
        hardware: as an executor names it, the same for every name that the device has.
    """
    name = re.sub(r"[^a-z0-9]+", "-", hardware.lower())[:80]
    with held(home, name, "hardware") as ours:
        if ours:
            with suppress(OSError):  # a full disk: nobody learns whose it is
                (home / "workers" / f"{name}.hardware" / _HOLDER).write_text(slot, "utf-8")
        yield ours


def slots_at_work(home: Path) -> set[str]:
    """Slots whose workers have their hardware, and so take jobs."""
    found: set[str] = set()
    for folder in (home / "workers").glob("*.hardware"):
        with (
            held(home, folder.name.removesuffix(".hardware"), "hardware") as free,
            suppress(OSError),
        ):
            if not free:
                found.add((folder / _HOLDER).read_text("utf-8"))
    return found
