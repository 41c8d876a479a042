"""Numbers to few bits and back: by token, by row of a weight, or by group of weights.

Everything is symmetric: zero stays zero, and value = code * scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recurvid.ops.linear.pieces import rounded_in_pieces

INT8_MAX = 127.0
E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
TINY = 1e-12  # a row of zeros gets codes of zero
GROUP = 64  # weights that share a scale in 4-bit storage

#: The 16 values of NormalFloat 4: quantiles of a normal distribution (Dettmers and others,
#: "QLoRA", 2023, appendix E).
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
#: Fifteen evenly spaced values; the sixteenth code is not used.
INT4 = tuple(i / 7 for i in range(-7, 8))


def to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (..., k) to int8 of that shape and one fp32 scale a row, (..., 1)."""
    return rounded_in_pieces(x, _to_int8, torch.int8)


def _to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.float()
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(TINY) * (1 / INT8_MAX)
    return (x * (1 / scale)).round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8), scale


def to_e4m3(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (..., k) to fp8 of that shape and one fp32 scale a row, (..., 1)."""
    return rounded_in_pieces(x, _to_e4m3, E4M3)


def _to_e4m3(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.float()
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(TINY) * (1 / E4M3_MAX)
    return (x * (1 / scale)).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), scale


def to_codebook(weight: Tensor, book: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """A matrix (n, k), k a multiple of 64, to indices into at most 16 ascending values.

    Returns:
        uint8 (n, k / 2), two codes a byte, the first in the low half; and the largest magnitude
        of each group of 64, fp16 (n, k / 64).
    """
    n, k = weight.shape
    values = torch.tensor(book, device=weight.device)
    groups = weight.float().reshape(n, k // GROUP, GROUP)
    # Rounded first, so that the codes are the nearest to what is really multiplied.
    scale = groups.abs().amax(dim=-1).clamp_min(1e-7).to(torch.float16)
    middles = (values[1:] + values[:-1]) / 2
    codes = torch.bucketize(groups / scale.float()[..., None], middles).to(torch.uint8)
    low, high = codes.reshape(n, k // 2, 2).unbind(-1)
    return low | (high << 4), scale


def from_codebook(packed: Tensor, scale: Tensor, book: Tensor, dtype: torch.dtype) -> Tensor:
    """What ``to_codebook`` made, as a matrix (n, k) of ``dtype``; ``book``: (16,) values."""
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).int()  # (n, k)
    groups = book[codes].unflatten(-1, (-1, GROUP)) * scale[..., None].float()
    return groups.flatten(-2).to(dtype)
