"""ComfyUI's scaled fp8: ``llava_llama3_fp8_scaled.safetensors`` and its like.

A tensor ``LAYER.weight`` in fp8 has a factor ``LAYER.scale_weight``; its value is the product. An
empty ``scaled_fp8`` marks the file. ``LAYER.scale_input``, a factor for arithmetic in fp8, is not
needed here. Files in fp8 without any factor are plain casts and pass through.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recurvid.checkpoints.checkpoint import Checkpoint, CheckpointView
from recurvid.errors import CheckpointError

_MARK, _FACTOR, _INPUT = "scaled_fp8", ".scale_weight", ".scale_input"
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def descaled(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint whose scaled fp8 tensors read as fp16; any other passes through.

    Raises:
        CheckpointError: a factor without its tensor, or one that is not a single number.
    """
    names = checkpoint.keys()
    if not any(name.endswith(_FACTOR) for name in names):
        return checkpoint
    return _Descaled(checkpoint)


class _Descaled(CheckpointView):
    """fp8 codes times their factors."""

    def __init__(self, inner: Checkpoint):
        super().__init__(inner)
        known = set(inner.keys())
        self._factors: dict[str, str] = {}
        for name in known:
            if name.endswith(_FACTOR):
                weight = name.removesuffix(_FACTOR) + ".weight"
                self._factors[weight] = name
                self._check(name, weight, known)

    def keys(self) -> tuple[str, ...]:
        """Names without factors and mark."""
        return tuple(name for name in self.inner.keys() if not _is_extra(name))  # noqa: SIM118

    def dtype(self, name: str) -> torch.dtype:
        """fp16 where a factor stands beside a tensor."""
        return torch.float16 if name in self._factors else self.inner.dtype(name)

    def tensor(self, name: str) -> Tensor:
        """The tensor, multiplied out."""
        value = self.inner.tensor(name)
        if name not in self._factors:
            return value
        factor = self.inner.tensor(self._factors[name]).float().reshape(())
        return (value.float() * factor).half()

    def _check(self, factor: str, weight: str, known: set[str]) -> None:
        where = f"{self.inner.file_of(factor)}: tensor {factor[:200]}"
        if weight not in known:
            raise CheckpointError(f"{where} belongs to no weight")
        if self.inner.dtype(weight) not in _FP8 or math.prod(self.inner.shape(factor)) != 1:
            raise CheckpointError(f"{where} is not the one factor of a tensor in fp8")


def _is_extra(name: str) -> bool:
    return name.rpartition(".")[2] == _MARK or name.endswith((_FACTOR, _INPUT))
