"""BlockLayout: where the tensors of a block lie in one flat buffer; how a block is given others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Tensors of a block begin at multiples of this, in bytes: what vectorised kernels assume.
ALIGNMENT = 256

Skip = Callable[[str], bool]


def keep_all(name: str) -> bool:
    """The default of what is left out of a block: nothing."""
    del name
    return False


@dataclass(frozen=True)
class BlockLayout:
    """Where the tensors of a block lie in one flat buffer.

    Attributes:
        names: of parameters and buffers, relative to the block.
        offsets: bytes from the start.
        size: bytes of the whole, a multiple of ``ALIGNMENT``.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    offsets: tuple[int, ...]
    size: int

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> BlockLayout:
        """Tensors one after the other, each aligned. Works on the meta device."""
        offsets: list[int] = []
        end = 0
        for tensor in tensors.values():
            offsets.append(end)
            end += -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
        return BlockLayout(
            tuple(tensors),
            tuple(tuple(t.shape) for t in tensors.values()),
            tuple(t.dtype for t in tensors.values()),
            tuple(offsets),
            end,
        )

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The tensors inside a flat uint8 buffer of at least ``size`` bytes; nothing is copied."""
        found: dict[str, Tensor] = {}
        for name, shape, dtype, start in zip(
            self.names, self.shapes, self.dtypes, self.offsets, strict=True
        ):
            count = dtype.itemsize
            for side in shape:
                count *= side
            found[name] = flat[start : start + count].view(dtype).view(shape)
        return found


def tensors_of(block: nn.Module, skip: Skip = keep_all) -> dict[str, Tensor]:
    """Parameters and buffers of a block as plain tensors, without those that ``skip`` names."""
    named: Iterable[tuple[str, Tensor]] = (*block.named_parameters(), *block.named_buffers())
    return {name: value.detach() for name, value in named if not skip(name)}


def setters_of(block: nn.Module, names: Iterable[str]) -> dict[str, Callable[[Tensor], None]]:
    """For each parameter or buffer of a block what changes the values behind it."""
    return {name: _setter(block, name) for name in names}


def _setter(block: nn.Module, name: str) -> Callable[[Tensor], None]:
    """What changes the values behind a parameter or buffer of a block."""
    path, _, last = name.rpartition(".")
    owner = block.get_submodule(path)
    parameter = owner._parameters.get(last)  # pyright: ignore[reportPrivateUsage]
    if parameter is None:
        return lambda tensor: setattr(owner, last, tensor)

    def change(tensor: Tensor) -> None:
        parameter.data = tensor

    return change
