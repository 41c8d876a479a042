"""HostBuffer: bytes of system memory from which a device copies, and the threads that fill them."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from recurvid.memory.layout import BlockLayout

#: Bytes that one thread copies at a time.
CHUNK = 16 * 2**20

logger = logging.getLogger(__name__)


class HostBuffer:
    """Bytes of system memory, pinned where there is a CUDA device to copy to.

    Registered with CUDA rather than allocated by torch, whose pinned allocator rounds every size
    up to a power of two: half as much again for the blocks of the 13B model.
    """

    def __init__(self, size: int, *, pin: bool):
        self.data = torch.empty(size, dtype=torch.uint8)
        self._unpin: weakref.finalize[..., HostBuffer] | None = None
        if pin:
            code = _cudart().cudaHostRegister(self.data.data_ptr(), size, 0)
            if int(code) == 0:
                # Before the bytes can go: memory that is freed must not be registered any more.
                self._unpin = weakref.finalize(self, _unregister, self.data.data_ptr())
                self._unpin.atexit = False
            else:  # a system that does not register memory: torch's own pinning
                _clear_error()
                self.data = torch.empty(size, dtype=torch.uint8, pin_memory=True)

    @property
    def pinned(self) -> bool:
        """Whether copies from here run beside the computation."""
        return self.data.is_pinned()

    def close(self) -> None:
        """Unpin. The bytes go with the last reference."""
        if self._unpin is not None:
            self._unpin()


def _clear_error() -> None:
    """Take note of a CUDA error that was dealt with; the next kernel would report it again."""
    try:
        torch.zeros(1, device="cuda").add_(1)
    except RuntimeError:
        logger.debug("system memory cannot be registered with CUDA")


def _unregister(address: int) -> None:
    _cudart().cudaHostUnregister(address)


def _cudart() -> Any:
    return torch.cuda.cudart()


def fill(
    flat: Tensor, layout: BlockLayout, tensors: Mapping[str, Tensor], pool: ThreadPoolExecutor
) -> list[Future[None]]:
    """Begin to copy the tensors of a block into its flat buffer, in pieces that threads share."""
    parts: list[Future[None]] = []
    for name, start in zip(layout.names, layout.offsets, strict=True):
        source = tensors[name].contiguous().view(-1).view(torch.uint8)
        for first in range(0, len(source), CHUNK):
            last = min(first + CHUNK, len(source))
            target = flat[start + first : start + last]
            parts.append(pool.submit(_copy, target, source[first:last]))
    return parts


def _copy(target: Tensor, source: Tensor) -> None:
    # Through numpy, which lets other threads run meanwhile and starts none of its own.
    target.numpy()[:] = source.numpy()
