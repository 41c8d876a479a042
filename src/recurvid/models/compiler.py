"""Whether this machine can compile: found out before anything large is loaded."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from recurvid.errors import ComponentError

#: What stands in a cause -> what helps against it.
_HELP = {
    "C++ compiler": "install one (Debian and Ubuntu: apt install g++; macOS: xcode-select "
    "--install; Windows: the C++ build tools of Visual Studio)",
    "cl is not found": "install the C++ build tools of Visual Studio",
    "C compiler": "install one (Debian and Ubuntu: apt install gcc), which Triton needs",
    "triton": "install it (pip install triton; on Windows triton-windows)",
    "Python.h": "install Python's headers (Debian and Ubuntu: apt install python3-dev)",
}


def refuse_without_compiler(device: torch.device) -> None:
    """Compile a line of code for a device, a few seconds at a process's first call.

    Raises:
        ComponentError: in one line: it failed, why, and what to do.
    """
    cause = _why_not(device.type)
    if cause is not None:
        raise ComponentError(f"--compile: cannot compile for {device.type} here: {cause}")


@lru_cache(maxsize=4)
def _why_not(kind: str) -> str | None:
    def line(x: Tensor) -> Tensor:
        return (x * 2 + 1).sin()

    try:
        torch.compile(line, fullgraph=True)(torch.ones(8, device=kind))
    except Exception as error:  # noqa: BLE001 - whatever a compiler, its driver or a loader raises
        return told(error)
    return None


def told(error: BaseException) -> str:
    """What lies at the bottom of an error out of the compiler, in one line, and what helps."""
    while True:
        inner = getattr(error, "inner_exception", None) or error.__cause__
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = str(error)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    cause = f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__
    low = text.lower()
    found = next((words for part, words in _HELP.items() if part.lower() in low), None)
    return f"{cause}; {'' if found is None else f'{found}, or '}leave --compile out"
