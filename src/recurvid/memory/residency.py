"""Who is on the device: visits of single modules, and components that take turns."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def visiting(device: torch.device, *modules: nn.Module | None) -> Generator[None, None, None]:
    """Have modules on a device for a while; afterwards their tensors are those they had before.

    Nothing is copied back, so what rested on a memory-mapped file rests there again. None stands
    for a part that a model does not have.
    """
    before = [
        (tensor, tensor.data)
        for module in modules
        if module is not None
        for tensor in (*module.parameters(), *module.buffers())
    ]
    try:
        for tensor, data in before:
            tensor.data = data.to(device)
        yield
    finally:
        for tensor, data in before:
            tensor.data = data


class Turns:
    """Components of which one at a time has the device to itself.

    What a component does in order to leave is told when it takes its turn; it is done when
    another one wants the device.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._name: str | None = None
        self._leave: Callable[[], None] | None = None

    @property
    def current(self) -> str | None:
        """Whose turn it is."""
        return self._name

    def take(
        self,
        name: str,
        arrive: Callable[[], None] | None = None,
        leave: Callable[[], None] | None = None,
    ) -> None:
        """Let the one before leave and this one arrive; nothing happens in one's own turn."""
        if name == self._name:
            return
        self.end()
        self._name, self._leave = name, leave
        if arrive is not None:
            arrive()

    def end(self) -> None:
        """Let whoever has the device leave it."""
        leave, self._leave, self._name = self._leave, None, None
        if leave is not None:
            leave()
            free(self.device)


def free(device: torch.device) -> None:
    """Give memory that nobody holds back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def limit_allocator(device: torch.device, reserved: int) -> None:
    """Keep torch's allocator at or below ``reserved`` bytes on a CUDA device.

    At the limit it first gives back what it keeps for later, then raises OutOfMemoryError, even
    where the device has more: the budget is kept.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        # By number: this function takes no device without one.
        number = torch.cuda.current_device() if str(device) == "cuda" else device.index
        torch.cuda.set_per_process_memory_fraction(min(1.0, reserved / total), number)
