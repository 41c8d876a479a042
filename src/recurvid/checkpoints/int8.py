"""int8 storage: how the bundled weights stay small.

A tensor ``NAME`` of at least two dimensions is stored as int8 beside ``NAME.scale``, one float32
per row (index of the first dimension); its value is ``int8 * scale``. Everything else that is
floating point is stored as fp16. Symmetric round-to-nearest, absolute maximum of a row = 127.

A few weights that tower over their row (the autoencoder's identity taps are a hundred times their
neighbours) would cost the others all precision. They are taken out first: ``NAME.outliers`` holds
their positions in the flattened tensor (int32), ``NAME.values`` their values (fp16).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from recurvid.checkpoints.checkpoint import Checkpoint, CheckpointView
from recurvid.durable import atomic_path
from recurvid.errors import CheckpointError

SCALE, OUTLIERS, VALUES = ".scale", ".outliers", ".values"
#: A weight is an outlier above this multiple of its row's root mean square (outliers left out).
TOWERING = 6.0
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


def towering(value: Tensor) -> Tensor:
    """Flat positions, int64 ascending, of the weights that are stored beside the int8 ones."""
    rows = value.detach().float().reshape(value.shape[0], -1)
    found = torch.zeros_like(rows, dtype=torch.bool)
    for _ in range(4):  # without the largest, the next ones show
        rms = rows.masked_fill(found, 0).square().mean(dim=1, keepdim=True).sqrt()
        found |= rows.abs() > TOWERING * rms
    return found.flatten().nonzero()[:, 0]


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
            stored.update(_stored(name, value))
        else:
            half = value.detach().to("cpu", torch.float16).contiguous()
            if not half.isfinite().all():
                raise ValueError(f"{name} holds values beyond the range of fp16")
            stored[name] = half
    with atomic_path(path) as temporary:
        save_file(stored, str(temporary), metadata={"format": "pt", **(metadata or {})})


def _stored(name: str, value: Tensor) -> dict[str, Tensor]:
    """What stands in the file for one tensor."""
    where = towering(value)
    rest = value.detach().float().flatten().clone()
    parts: dict[str, Tensor] = {}
    if len(where):
        parts[name + OUTLIERS] = where.to("cpu", torch.int32)
        parts[name + VALUES] = rest[where].to("cpu", torch.float16)
        rest[where] = 0
    codes, scale = quantize_rows(rest.view(value.shape))
    return {name: codes.cpu().contiguous(), name + SCALE: scale.cpu(), **parts}


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
            if (name + OUTLIERS in names) != (name + VALUES in names):
                raise CheckpointError(
                    f"{inner.file_of(name)}: tensor {name} has {OUTLIERS} without {VALUES}, "
                    f"or the other way round"
                )

    def keys(self) -> tuple[str, ...]:
        """Names without the scales."""
        hidden = {name + end for name in self._quantized for end in (SCALE, OUTLIERS, VALUES)}
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
        full = value.float() * scale.reshape(-1, *[1] * (value.ndim - 1))
        if name + OUTLIERS not in self.inner.keys():  # noqa: SIM118
            return full
        where, values = self.inner.tensor(name + OUTLIERS), self.inner.tensor(name + VALUES)
        if where.shape != values.shape or not bool(((where >= 0) & (where < full.numel())).all()):
            raise CheckpointError(
                f"{self.inner.file_of(name)}: tensor {name + OUTLIERS} points outside of {name}"
            )
        full.view(-1)[where.long()] = values.float()
        return full


def dequantized(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with int8 storage undone; itself where nothing is stored so.

    Raises:
        CheckpointError: an int8 matrix without scales, or with scales of another length.
    """
    view = _Dequantized(checkpoint)
    return view if view.keys() != checkpoint.keys() else checkpoint
