"""int8 storage: how the bundled weights stay small.

A tensor ``NAME`` of at least two dimensions is stored as int8 beside ``NAME.scale``, one float32
per row (index of the first dimension); its value is ``int8 * scale``. Everything else that is
floating point is stored as fp16. Symmetric round-to-nearest, absolute maximum of a row = 127.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from recurvid.checkpoints.checkpoint import Checkpoint, CheckpointView
from recurvid.durable import atomic_path
from recurvid.errors import CheckpointError

SCALE = ".scale"
#: Smaller tensors are left in fp16: they weigh nothing and are often the sensitive ones.
MIN_ELEMENTS = 4096


def quantize_rows(value: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise a tensor by rows.

    Args:
        value: (rows, ...), floating point.

    Returns:
        int8 of the same shape, and float32 scales (rows,).
    """
    rows = value.detach().float().reshape(value.shape[0], -1)
    scale = rows.abs().amax(dim=1) / 127
    # A row of zeros keeps scale 0 and codes 0.
    codes = (rows / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round()
    return codes.clamp(-127, 127).to(torch.int8).reshape(value.shape), scale


def save_quantized(
    state_dict: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a state dict in int8 storage, whole or not at all.

    Raises:
        ValueError: a name that would be taken for a scale, a value that is not finite, or one
            that fp16 cannot hold.
    """
    from safetensors.torch import save_file

    stored: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if name.endswith(SCALE) and name.removesuffix(SCALE) in state_dict:
            raise ValueError(f"{name} would be taken for the scale of another tensor")
        if not value.is_floating_point():
            stored[name] = value.detach().cpu().contiguous()
            continue
        if not value.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")
        if value.ndim >= 2 and value.numel() >= MIN_ELEMENTS:
            codes, scale = quantize_rows(value)
            stored[name], stored[name + SCALE] = codes.cpu().contiguous(), scale.cpu()
        else:
            half = value.detach().to("cpu", torch.float16).contiguous()
            if not half.isfinite().all():
                raise ValueError(f"{name} holds values beyond the range of fp16")
            stored[name] = half
    with atomic_path(path) as temporary:
        save_file(stored, str(temporary), metadata={"format": "pt", **(metadata or {})})


class _Dequantized(CheckpointView):
    """int8 tensors with scales, seen as float32; scales are hidden."""

    def __init__(self, inner: Checkpoint):
        super().__init__(inner)
        names = set(inner.keys())
        self._quantized = {
            name
            for name in names
            if inner.dtype(name) == torch.int8 and len(inner.shape(name)) >= 2
        }
        for name in self._quantized:
            rows = inner.shape(name)[0]
            if name + SCALE not in names:
                raise CheckpointError(f"{inner.file_of(name)}: tensor {name} is int8 without scale")
            if inner.shape(name + SCALE) != (rows,):
                raise CheckpointError(
                    f"{inner.file_of(name)}: tensor {name + SCALE} is "
                    f"{list(inner.shape(name + SCALE))}, not [{rows}]"
                )

    def keys(self) -> tuple[str, ...]:
        """Names without the scales."""
        hidden = {name + SCALE for name in self._quantized}
        names = self.inner.keys()
        return tuple(name for name in names if name not in hidden)

    def dtype(self, name: str) -> torch.dtype:
        """float32 for what was int8."""
        return torch.float32 if name in self._quantized else self.inner.dtype(name)

    def tensor(self, name: str) -> Tensor:
        """The value; a fresh tensor where it was int8."""
        value = self.inner.tensor(name)
        if name not in self._quantized:
            return value
        scale = self.inner.tensor(name + SCALE).float()
        return value.float() * scale.reshape(-1, *[1] * (value.ndim - 1))


def dequantized(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with int8 storage undone; itself where nothing is stored so.

    Raises:
        CheckpointError: an int8 matrix without scales, or with scales of another length.
    """
    view = _Dequantized(checkpoint)
    return view if view.keys() != checkpoint.keys() else checkpoint
