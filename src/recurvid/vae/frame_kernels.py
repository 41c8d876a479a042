"""What lies between a decoder's convolutions, each in one pass over memory.

Frames lie as (t, h, w, c): one pixel's channels together, as tensor cores want them. A causal
convolution needs them normalised, bent by SiLU, perhaps enlarged, and padded by their border; torch
reads and writes them once for each of these, and a decoder's frames are gigabytes. The kernels are
Triton's; without it, and on the CPU, torch's own operations do the same.
"""

# pyright: reportMissingImports=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportPossiblyUnboundVariable=false
# pyright: reportIndexIssue=false, reportFunctionMemberAccess=false
from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AVAILABLE = find_spec("triton") is not None
#: Programs that sum up channels; a number of its own, so that sums do not depend on the card.
_PROGRAMS = 1024

if AVAILABLE:
    import triton
    import triton.language as tl
    from triton import knobs

    @triton.jit
    def sum_kernel(  # noqa: D103
        x, sums, rows, each, C, ROWS: tl.constexpr, WIDTH: tl.constexpr
    ):  # fmt: skip
        program = tl.program_id(0)
        column = tl.arange(0, WIDTH)
        total = tl.zeros((WIDTH,), dtype=tl.float32)
        square = tl.zeros((WIDTH,), dtype=tl.float32)
        first = program.to(tl.int64) * each
        for start in range(0, each, ROWS):
            row = first + start + tl.arange(0, ROWS)
            inside = (row < rows)[:, None] & (start + tl.arange(0, ROWS) < each)[:, None]
            inside = inside & (column < C)[None, :]
            y = tl.load(x + row[:, None] * C + column[None, :], mask=inside, other=0)
            y = y.to(tl.float32)
            total += tl.sum(y, axis=0)
            square += tl.sum(y * y, axis=0)
        at = sums + program * 2 * C + column
        tl.store(at, total, mask=column < C)
        tl.store(at + C, square, mask=column < C)

    @triton.jit
    def pad_kernel(  # noqa: PLR0913, D103 - a kernel's signature is its data
        x, scale, shift, out, rows, t0, back, T, H, W, high, wide, C, ut, us, border,
        NORM: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        column = tl.arange(0, WIDTH)
        # Where each output pixel comes from; enlarged frames are counted before they are padded.
        w = row % wide - border
        h = row // wide % high - border
        t = row // (wide * high) + t0 - back
        w = tl.minimum(tl.maximum(w, 0), W * us - 1) // us
        h = tl.minimum(tl.maximum(h, 0), H * us - 1) // us
        t = tl.minimum((tl.maximum(t, 0) + ut - 1) // ut, T - 1)
        inside = (row < rows)[:, None] & (column < C)[None, :]
        source = ((t * H + h) * W + w) * C
        y = tl.load(x + source[:, None] + column[None, :], mask=inside, other=0)
        if NORM:
            a = tl.load(scale + column, mask=column < C, other=0)[None, :]
            b = tl.load(shift + column, mask=column < C, other=0)[None, :]
            z = y.to(tl.float32) * a + b
            y = (z / (1 + tl.exp(-z))).to(y.dtype)
        tl.store(out + row[:, None] * C + column[None, :], y, mask=inside)


@dataclass(frozen=True)
class Enlarge:
    """Nearest-neighbour enlargement: frames after the first ``time``-fold, sides ``space``-fold."""

    time: int = 1
    space: int = 1


SAME = Enlarge()


@dataclass(frozen=True)
class Border:
    """Pixels that a convolution needs around frames: ``back`` frames before, ``side`` around."""

    back: int = 2
    side: int = 1


def uses_triton(x: Tensor) -> bool:
    """Whether our kernels serve this tensor."""
    return AVAILABLE and (x.is_cuda or knobs.runtime.interpret)


def norm_scale(x: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """(c,) float32 scale and shift, so that ``norm`` of frames (..., c) is x * scale + shift."""
    channels, groups = x.shape[-1], norm.num_groups
    sums = channel_sums(x).view(2, groups, channels // groups).sum(dim=2)
    mean, square = sums / (x.numel() // groups)
    root = torch.rsqrt((square - mean * mean).clamp(min=0) + norm.eps)
    scale = norm.weight.double() * root.repeat_interleave(channels // groups)
    shift = norm.bias.double() - mean.repeat_interleave(channels // groups) * scale
    return scale.float(), shift.float()


def channel_sums(x: Tensor) -> Tensor:
    """(2, c) float64: sums and sums of squares of frames (..., c) over everything else."""
    rows, channels = x.numel() // x.shape[-1], x.shape[-1]
    if not uses_triton(x):
        # Frame by frame: a copy in float32 of all of them would be the largest thing there is.
        parts = [
            part.float().reshape(-1, channels) for part in x.reshape(rows, channels).split(2**20)
        ]
        return sum((torch.stack([p.sum(0), p.square().sum(0)]).double() for p in parts),
                   torch.zeros(2, channels, dtype=torch.float64, device=x.device))  # fmt: skip
    programs = min(_PROGRAMS, rows)
    sums = torch.empty(programs, 2, channels, dtype=torch.float32, device=x.device)
    width = 1 << (channels - 1).bit_length()
    height = max(1, 8192 // width)
    sum_kernel[(programs,)](x, sums, rows, -(-rows // programs), channels, height, width)
    return sums.double().sum(dim=0)


def padded(
    x: Tensor,
    frames: range,
    border: Border,
    norm: tuple[Tensor, Tensor] | None = None,
    enlarge: Enlarge = SAME,
) -> Tensor:
    """Frames as a causal convolution wants them, without the rest of the video.

    Args:
        x: (t, h, w, c) contiguous.
        frames: of the enlarged video, what the convolution shall give.
        norm: scale and shift (c,) float32, followed by SiLU; None leaves values as they are.

    Returns:
        (len(frames) + back, h * space + 2 * side, w * space + 2 * side, c); what lies outside of
        the video repeats its border.
    """
    t, h, w, channels = x.shape
    high, wide = h * enlarge.space + 2 * border.side, w * enlarge.space + 2 * border.side
    shape = (len(frames) + border.back, high, wide, channels)
    if not uses_triton(x):
        return _padded(x, frames, border, norm, enlarge)
    out = torch.empty(shape, dtype=x.dtype, device=x.device)
    rows = out.numel() // channels
    width = 1 << (channels - 1).bit_length()
    height = max(1, 4096 // width)
    scale, shift = norm or (x, x)
    pad_kernel[(-(-rows // height),)](
        x, scale, shift, out, rows, frames.start, border.back, t, h, w, high, wide, channels,
        enlarge.time, enlarge.space, border.side, norm is not None, height, width,
    )  # fmt: skip
    return out


def _padded(
    x: Tensor,
    frames: range,
    border: Border,
    norm: tuple[Tensor, Tensor] | None,
    enlarge: Enlarge,
) -> Tensor:
    def sources(start: int, stop: int, length: int, times: int) -> Tensor:
        return torch.arange(start, stop, device=x.device).clamp(0, length * times - 1) // times

    t, h, w, _ = x.shape
    side = border.side
    time = torch.arange(frames.start - border.back, frames.stop, device=x.device).clamp(min=0)
    time = ((time + enlarge.time - 1) // enlarge.time).clamp(max=t - 1)
    high = sources(-side, h * enlarge.space + side, h, enlarge.space)
    wide = sources(-side, w * enlarge.space + side, w, enlarge.space)
    if norm is None:
        return x[time[:, None, None], high[:, None], wide]
    first = int(time[0])
    part = x[first : int(time[-1]) + 1].float() * norm[0] + norm[1]
    part = F.silu(part).to(x.dtype)
    return part[(time - first)[:, None, None], high[:, None], wide]
