"""CopyStream: copies to a device beside its computation, with marks for who waits for whom."""

from __future__ import annotations

from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from recurvid.memory.sources import Mark


@runtime_checkable
class CopyStream(Protocol):
    """Copies to a device beside its computation."""

    def copy(self, target: Tensor, source: Tensor) -> Mark:
        """Begin a copy; the mark is passed when it is done."""
        ...

    def await_copy(self, mark: Mark) -> None:
        """What is computed from now on waits for a copy."""
        ...

    def computed(self) -> Mark:
        """A mark behind everything that was asked to be computed so far."""
        ...

    def await_compute(self, mark: Mark) -> None:
        """What is copied from now on waits for a computation."""
        ...

    def drain(self) -> None:
        """Wait until nothing is being copied."""
        ...


class CudaCopies:
    """Copies on a CUDA stream of their own."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def copy(self, target: Tensor, source: Tensor) -> Mark:
        """Begin a copy from pinned memory."""
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            return self._stream.record_event()

    def await_copy(self, mark: Mark) -> None:
        """Let the current stream wait."""
        torch.cuda.current_stream(self._device).wait_event(cast(torch.cuda.Event, mark))

    def computed(self) -> Mark:
        """An event on the current stream."""
        return torch.cuda.current_stream(self._device).record_event()

    def await_compute(self, mark: Mark) -> None:
        """Let the copy stream wait."""
        self._stream.wait_event(cast(torch.cuda.Event, mark))

    def drain(self) -> None:
        """Wait for the copy stream."""
        self._stream.synchronize()


class _Passed:
    """A mark of a device that does everything at once."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


class DirectCopies:
    """Copies of a device without streams, such as the CPU: done when asked for."""

    def copy(self, target: Tensor, source: Tensor) -> Mark:
        """Copy."""
        target.copy_(source)
        return _Passed()

    def await_copy(self, mark: Mark) -> None:
        """Nothing to wait for."""

    def computed(self) -> Mark:
        """Always passed."""
        return _Passed()

    def await_compute(self, mark: Mark) -> None:
        """Nothing to wait for."""

    def drain(self) -> None:
        """Nothing to wait for."""


def copies_for(device: torch.device) -> CopyStream:
    """The copies of a kind of device."""
    return CudaCopies(device) if device.type == "cuda" else DirectCopies()
