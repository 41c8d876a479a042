"""What is behind a device's name. Imported by the worker only: needs torch."""

from __future__ import annotations

import torch

from recurvid.generation.runtime import pick_device


def hardware_of(name: str) -> str:
    """The same word for the same piece of hardware: of ``auto``, ``cuda`` and ``cuda:0``, one.

    A card is known by what its maker burnt into it, as its number depends on what the environment
    of a process lets it see.

    Raises:
        InputError: no device has such a name.
        ComponentError: there is none here.
    """
    device = pick_device(name)
    if device.type not in ("cuda", "xpu"):
        return device.type
    kind = getattr(torch, device.type)
    number = device.index if ":" in str(device) else kind.current_device()
    known = getattr(kind.get_device_properties(number), "uuid", None)
    return f"{device.type} {number if known is None else known}"
