"""RMS norm of queries or keys and their rotary phases in one kernel: read once, written once.

Generated code reads the phases for every head and does the norm's sum and the turning of pairs at
a fifth of the card's bandwidth. Here a program keeps the phases of some tokens and goes through
heads. Two streams that meet in attention are written side by side.
"""

# pyright: reportMissingImports=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportPossiblyUnboundVariable=false
# pyright: reportIndexIssue=false, reportFunctionMemberAccess=false
from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from recurvid.ops.modulation import EPS
from recurvid.ops.rope import RopeTable

AVAILABLE = find_spec("triton") is not None
HALF = (torch.float16, torch.bfloat16)

if AVAILABLE:
    import triton
    import triton.language as tl

    TOKENS, HEADS = 16, 8  # of one program

    @triton.jit(do_not_specialize=["n", "first", "whole"])
    def norm_rope_kernel(  # noqa: PLR0913, D103 - a kernel's signature is its data
        x, weight, cos, sin, out, n, first, whole, heads, table_rows, eps,
        CHANNELS: tl.constexpr, TOKENS: tl.constexpr, HEADS: tl.constexpr,
    ):  # fmt: skip
        batch = tl.program_id(2).to(tl.int64)
        token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
        channel, pair = tl.arange(0, CHANNELS), tl.arange(0, CHANNELS // 2)
        inside = (token < n)[:, None]
        at = (batch * table_rows + first + token)[:, None] * (CHANNELS // 2) + pair[None, :]
        c = tl.load(cos + at, mask=inside, other=0)
        s = tl.load(sin + at, mask=inside, other=0)
        w = tl.load(weight + channel).to(tl.float32)[None, :]
        row = (batch * n + token)[:, None] * heads
        out_row = (batch * whole + first + token)[:, None] * heads
        for i in tl.static_range(HEADS):
            head = tl.program_id(1) * HEADS + i
            there = inside & (head < heads)
            y = tl.load(x + (row + head) * CHANNELS + channel[None, :], mask=there, other=0)
            y = y.to(tl.float32)
            y = y * tl.rsqrt(tl.sum(y * y, axis=1) / CHANNELS + eps)[:, None] * w
            a, b = tl.split(y.reshape(TOKENS, CHANNELS // 2, 2))
            y = tl.join(a * c - b * s, b * c + a * s).reshape(TOKENS, CHANNELS)
            to = out + (out_row + head) * CHANNELS + channel[None, :]
            tl.store(to, y.to(out.dtype.element_ty), mask=there)


@dataclass(frozen=True)
class Stream:
    """Projections of one stream, (b, n, heads, head_dim), and the weight of their norm."""

    x: Tensor
    weight: Tensor


def can_turn(x: Tensor) -> bool:
    """Whether the kernel takes such projections: on a card, without gradients."""
    channels = x.shape[-1]
    fits = x.dtype in HALF and channels & (channels - 1) == 0
    return AVAILABLE and fits and x.is_cuda and not torch.is_grad_enabled()


def norm_rope(first: Stream, second: Stream | None, table: RopeTable) -> Tensor:
    """(b, n, heads, head_dim) of both streams' tokens, normed and turned."""
    more = (None, None) if second is None else (second.x, second.weight)
    return norm_and_turn(first.x, first.weight, *more, table.cos, table.sin)


@torch.library.custom_op(
    "recurvid::norm_and_turn",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? y, Tensor? y_weight, Tensor cos, Tensor sin)"
    " -> Tensor",
)
def norm_and_turn(
    x: Tensor,
    weight: Tensor,
    y: Tensor | None,
    y_weight: Tensor | None,
    cos: Tensor,
    sin: Tensor,
) -> Tensor:
    """See :func:`norm_rope`; cos and sin (b or 1, all tokens, head_dim / 2)."""
    cos, sin = cos.contiguous(), sin.contiguous()
    b, n, heads, channels = x.shape
    whole = n + (0 if y is None else y.shape[1])
    out = torch.empty(b, whole, heads, channels, dtype=x.dtype, device=x.device)
    rows = 0 if cos.shape[0] == 1 else cos.shape[1]
    begin = 0
    for part, of_norm in ((x, weight), (y, y_weight)):
        if part is None or of_norm is None:
            continue
        count = part.shape[1]
        grid = (triton.cdiv(count, TOKENS), triton.cdiv(heads, HEADS), b)
        norm_rope_kernel[grid](
            part.contiguous(), of_norm, cos, sin, out, count, begin, whole, heads, rows, EPS,
            CHANNELS=channels, TOKENS=TOKENS, HEADS=HEADS, num_warps=4,
        )  # fmt: skip
        begin += count
    return out


@norm_and_turn.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    y: Tensor | None,
    y_weight: Tensor | None,
    cos: Tensor,
    sin: Tensor,
) -> Tensor:
    b, n, heads, channels = x.shape
    whole = n + (0 if y is None else y.shape[1])
    return torch.empty(b, whole, heads, channels, dtype=x.dtype, device=x.device)
