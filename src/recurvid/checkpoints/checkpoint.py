"""Checkpoint: named tensors on disk, read lazily, whatever the format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Checkpoint(Protocol):
    """Named tensors, read-only. Opening reads names and shapes, never values.

    Tensors come from a private memory map where the format allows: asking for one costs nothing
    until its values are read. Do not write into them; copy first.
    """

    @property
    def metadata(self) -> Mapping[str, str]:
        """Free text that came with the tensors; empty where the format has none."""
        ...

    def keys(self) -> tuple[str, ...]:
        """Names of all tensors, in a stable order."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it. KeyError for an unknown name."""
        ...

    def dtype(self, name: str) -> torch.dtype:
        """Type of a tensor as :meth:`tensor` gives it, without reading it."""
        ...

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor on the CPU."""
        ...

    def file_of(self, name: str) -> Path:
        """The file that holds the tensor; for messages."""
        ...


class CheckpointView:
    """A Checkpoint over another one that passes everything through. Views override what differs."""

    def __init__(self, inner: Checkpoint):
        self.inner = inner

    @property
    def metadata(self) -> Mapping[str, str]:
        """The inner checkpoint's metadata."""
        return self.inner.metadata

    def keys(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return self.inner.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.inner.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Type of a tensor."""
        return self.inner.dtype(name)

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor on the CPU."""
        return self.inner.tensor(name)

    def file_of(self, name: str) -> Path:
        """The file that holds the tensor."""
        return self.inner.file_of(name)


def some(names: Iterable[str], limit: int = 3) -> str:
    """Names for a one-line message: the first ``limit`` of them and how many more there are."""
    known = list(names)
    rest = len(known) - limit
    text = ", ".join(name if len(name) <= 120 else name[:117] + "..." for name in known[:limit])
    return f"{text} and {rest} more" if rest > 0 else text


def files_of(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """The files of a checkpoint, sorted."""
    names = checkpoint.keys()
    return tuple(sorted({checkpoint.file_of(name) for name in names}))


def source_name(checkpoint: Checkpoint) -> str:
    """What to call a checkpoint in a message: its file, or the folder of its shards."""
    files = files_of(checkpoint)
    if not files:
        return "checkpoint"
    return str(files[0] if len(files) == 1 else files[0].parent)
