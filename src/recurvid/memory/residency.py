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
    """Components that share a device: one at a time, or side by side where there is room.

    What a component does in order to leave is told when it takes its turn; it is done when
    another one wants the device.

    Args:
        together: whether nobody has to leave, until ``alone`` says otherwise.
    """

    def __init__(self, device: torch.device, *, together: bool = False):
        self.device = device
        self._together = together
        self._here: dict[str, Callable[[], None] | None] = {}

    @property
    def current(self) -> str | None:
        """Whose turn it is: of several that are there, who came last."""
        return next(reversed(self._here), None)

    def take(
        self,
        name: str,
        arrive: Callable[[], None] | None = None,
        leave: Callable[[], None] | None = None,
    ) -> None:
        """Let the one before leave and this one arrive; nothing happens while one is there."""
        if name in self._here:
            return
        if not self._together:
            self.end()
        # Known before it arrives: what came half way has to leave too.
        self._here[name] = leave
        if arrive is not None:
            try:
                arrive()
            except BaseException:
                self._dismiss(name)
                raise

    def alone(self, name: str) -> bool:
        """One at a time from now on, and now this one. Whether somebody else had to leave."""
        self._together = False
        others = [other for other in self._here if other != name]
        for other in others:
            self._dismiss(other)
        return bool(others)

    def end(self) -> None:
        """Let whoever has the device leave it."""
        for name in list(self._here):
            self._dismiss(name)

    def _dismiss(self, name: str) -> None:
        leave = self._here.pop(name)
        if leave is not None:
            leave()
            free(self.device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device is full: the allocator's own, or a library's."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(words in said for words in _FULL)


#: How CUDA and its libraries say it when it is not torch that asked for memory.
_FULL = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


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
