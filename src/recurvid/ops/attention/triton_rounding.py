"""Rounds what attention is given to 8 bits: one read for what tokens share, one read and write.

K loses its mean over the tokens, which no softmax sees, and takes one factor a head; q takes one a
token. V loses its mean too and takes a factor a channel: weights of a softmax add up to 1, so both
are put back into the result. Everything is laid out as the product wants it: head by head, padded
with zeros to whole tiles, V with its tokens last.
"""

# pyright: reportMissingImports=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportPossiblyUnboundVariable=false
# pyright: reportIndexIssue=false, reportFunctionMemberAccess=false
from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from recurvid.ops.attention.eight_bit import E4M3, E4M3_MAX

AVAILABLE = find_spec("triton") is not None
INT8_MAX = 127.0
PAD = 256  # tokens are padded to a multiple of this, so that every tile is whole
CHUNK = 256  # tokens of one program that looks for means and reaches
GROUP = 32  # tokens whose order within the group is the tensor cores' own

if AVAILABLE:
    import triton
    import triton.language as tl

    @triton.jit(do_not_specialize=["n", "chunks"])
    def attention_survey_kernel(  # noqa: PLR0913, D103 - a kernel's signature is its data
        x, parts, n, heads, chunks, CHANNELS: tl.constexpr, CHUNK: tl.constexpr,
        TOKENS: tl.constexpr,
    ):  # fmt: skip
        # Sum, smallest and largest of every channel over some tokens.
        chunk, line = tl.program_id(0), tl.program_id(1)
        batch, head = line // heads, line % heads
        channel = tl.arange(0, CHANNELS)
        total = tl.zeros((TOKENS, CHANNELS), dtype=tl.float32)
        low = tl.full((TOKENS, CHANNELS), float("inf"), dtype=tl.float32)
        high = tl.full((TOKENS, CHANNELS), float("-inf"), dtype=tl.float32)
        for start in tl.static_range(0, CHUNK, TOKENS):
            token = chunk * CHUNK + start + tl.arange(0, TOKENS)
            inside = (token < n)[:, None]
            row = (batch.to(tl.int64) * n + token) * heads + head
            at = x + row[:, None] * CHANNELS + channel[None, :]
            y = tl.load(at, mask=inside, other=0).to(tl.float32)
            total += y
            low = tl.minimum(low, tl.where(inside, y, float("inf")))
            high = tl.maximum(high, tl.where(inside, y, float("-inf")))
        to = parts + (line * chunks + chunk) * CHANNELS + channel
        step = tl.num_programs(1) * chunks * CHANNELS
        tl.store(to, tl.sum(total, axis=0))
        tl.store(to + step, tl.min(low, axis=0))
        tl.store(to + 2 * step, tl.max(high, axis=0))

    @triton.jit(do_not_specialize=["n", "chunks"])
    def attention_settle_kernel(  # noqa: D103
        parts, shared, reach, n, chunks, CHANNELS: tl.constexpr, MANY: tl.constexpr
    ):
        # Means of K and V; how far K goes from its own in any channel, and V in each.
        line, lines = tl.program_id(0), tl.num_programs(0)
        channel = tl.arange(0, CHANNELS)
        for which in tl.static_range(2):
            total = tl.zeros((CHANNELS,), dtype=tl.float32)
            low = tl.full((CHANNELS,), float("inf"), dtype=tl.float32)
            high = tl.full((CHANNELS,), float("-inf"), dtype=tl.float32)
            for first in range(0, chunks, MANY):
                chunk = first + tl.arange(0, MANY)
                there = (chunk < chunks)[:, None]
                at = parts + ((3 * which * lines + line) * chunks + chunk[:, None]) * CHANNELS
                at += channel[None, :]
                step = lines * chunks * CHANNELS
                total += tl.sum(tl.load(at, mask=there, other=0), axis=0)
                some = tl.load(at + step, mask=there, other=float("inf"))
                low = tl.minimum(low, tl.min(some, axis=0))
                some = tl.load(at + 2 * step, mask=there, other=float("-inf"))
                high = tl.maximum(high, tl.max(some, axis=0))
            mean = total / n
            far = tl.maximum(tl.maximum(high - mean, mean - low), 1e-12)
            if which == 0:
                far = tl.zeros((CHANNELS,), dtype=tl.float32) + tl.max(far, axis=0)
            tl.store(shared + (which * lines + line) * CHANNELS + channel, mean)
            tl.store(reach + (which * lines + line) * CHANNELS + channel, far)

    @triton.jit
    def narrowed(x, most: tl.constexpr, WHOLE: tl.constexpr):  # noqa: D103
        x = tl.minimum(tl.maximum(x, -most), most)
        return tl.floor(x + 0.5) if WHOLE else x

    @triton.jit(do_not_specialize=["n_q", "n_k"])
    def attention_round_kernel(  # noqa: PLR0913, D103
        q, k, v, shared, reach, q8, k8, v8, q_scale, n_q, n_k, padded_q, padded_k, heads, scale,
        WHOLE: tl.constexpr, NARROW_V: tl.constexpr, MOST: tl.constexpr, V_MOST: tl.constexpr,
        CHANNELS: tl.constexpr, TOKENS: tl.constexpr,
    ):  # fmt: skip
        line, lines = tl.program_id(1), tl.num_programs(1)
        batch, head = (line // heads).to(tl.int64), line % heads
        first = tl.program_id(0) * TOKENS
        token, channel = first + tl.arange(0, TOKENS), tl.arange(0, CHANNELS)
        inside = channel[None, :] < CHANNELS
        k_far = tl.load(reach + line * CHANNELS)
        if first < padded_q:
            row = (batch * n_q + token) * heads + head
            at = q + row[:, None] * CHANNELS + channel[None, :]
            x = tl.load(at, mask=(token < n_q)[:, None] & inside, other=0).to(tl.float32)
            far = tl.maximum(tl.max(tl.abs(x), axis=1), 1e-12)
            x = narrowed(x * (MOST / far)[:, None], MOST, WHOLE)
            row = line.to(tl.int64) * padded_q + token
            to = q8 + row[:, None] * CHANNELS + channel[None, :]
            tl.store(to, x.to(q8.dtype.element_ty))
            # What makes a product of codes the power of two that the softmax takes.
            tl.store(q_scale + row, far * k_far * (scale / (MOST * MOST)))
        if first < padded_k:
            row = (batch * n_k + token) * heads + head
            there = (token < n_k)[:, None] & inside
            at = k + row[:, None] * CHANNELS + channel[None, :]
            x = tl.load(at, mask=there, other=0).to(tl.float32)
            x -= tl.load(shared + line * CHANNELS + channel)[None, :]
            x = narrowed(tl.where(there, x * (MOST / k_far), 0), MOST, WHOLE)
            row = line.to(tl.int64) * padded_k + token
            to = k8 + row[:, None] * CHANNELS + channel[None, :]
            tl.store(to, x.to(k8.dtype.element_ty))
            # Token of V at each place. In fp8, as the tensor cores hand on scores: a thread has
            # pairs of neighbours out of every 8, and is to give 4 neighbours out of every 16.
            if NARROW_V:
                half, thread = token // 16 % 2, token % 16 // 4
                pair, one = token % 4 // 2, token % 2
                token = token // 32 * 32 + 16 * half + 8 * pair + 2 * thread + one
            row = (batch * n_k + token) * heads + head
            there = (token < n_k)[:, None] & inside
            at = v + row[:, None] * CHANNELS + channel[None, :]
            x = tl.load(at, mask=there, other=0).to(tl.float32)
            x -= tl.load(shared + (lines + line) * CHANNELS + channel)[None, :]
            x *= V_MOST / tl.load(reach + (lines + line) * CHANNELS + channel)[None, :]
            x = tl.where(there, tl.minimum(tl.maximum(x, -V_MOST), V_MOST), 0)
            x = x.to(v8.dtype.element_ty)
            if NARROW_V:
                row = (line.to(tl.int64) * CHANNELS + channel) * padded_k
                to = v8 + row[None, :] + (first + tl.arange(0, TOKENS))[:, None]
            else:
                row = line.to(tl.int64) * padded_k + token
                to = v8 + row[:, None] * CHANNELS + channel[None, :]
            tl.store(to, x)


@dataclass(frozen=True)
class Rounded:
    """What attention multiplies.

    Attributes:
        q, k: codes (b, heads, n padded, head_dim), e4m3 or int8.
        v: e4m3 (b, heads, head_dim, n padded), tokens in the tensor cores' order (see
            ``order_of``), or float16 (b, heads, n padded, head_dim).
        q_scale: (b, heads, n padded) fp32; times a sum of products it is the score as a power
            of two.
        v_mean: (b, heads, head_dim) fp32.
        v_step: (b, heads, head_dim) fp32; what one unit of v is worth.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_scale: Tensor
    v_mean: Tensor
    v_step: Tensor


def padded(n: int) -> int:
    """Tokens with those that fill the last tile."""
    return math.ceil(n / PAD) * PAD


def order_of(place: Tensor) -> Tensor:
    """Which token of V lies at each place."""
    half, thread, pair, one = place // 16 % 2, place % 16 // 4, place % 4 // 2, place % 2
    return place // GROUP * GROUP + 16 * half + 8 * pair + 2 * thread + one


def rounded(q: Tensor, k: Tensor, v: Tensor, *, whole: bool, narrow_v: bool = True) -> Rounded:
    """q, k and v (b, n, heads, head_dim) for a kernel.

    Args:
        q: queries.
        k: keys.
        v: values.
        whole: q and k to int8 instead of e4m3.
        narrow_v: v to e4m3, else to float16.
    """
    q, k, v = (x.contiguous() for x in (q, k, v))
    b, n_q, heads, channels = q.shape
    n_k, lines = k.shape[1], b * heads
    chunks = math.ceil(n_k / CHUNK)
    device = q.device
    parts = torch.empty(6, lines, chunks, channels, device=device)
    shared, reach = (torch.empty(2, b, heads, channels, device=device) for _ in range(2))
    for x, part in ((k, parts[:3]), (v, parts[3:])):
        attention_survey_kernel[(chunks, lines)](
            x, part, n_k, heads, chunks, CHANNELS=channels, CHUNK=CHUNK, TOKENS=16, num_warps=4
        )
    attention_settle_kernel[(lines,)](
        parts, shared, reach, n_k, chunks, CHANNELS=channels, MANY=32, num_warps=4
    )
    kind = torch.int8 if whole else E4M3
    rows, keys = padded(n_q), padded(n_k)
    q8 = torch.empty(b, heads, rows, channels, dtype=kind, device=device)
    k8 = torch.empty(b, heads, keys, channels, dtype=kind, device=device)
    tall = (b, heads, channels, keys) if narrow_v else (b, heads, keys, channels)
    v8 = torch.empty(tall, dtype=E4M3 if narrow_v else torch.float16, device=device)
    q_scale = torch.empty(b, heads, rows, device=device)
    most, v_most = INT8_MAX if whole else E4M3_MAX, E4M3_MAX if narrow_v else 1.0
    attention_round_kernel[(max(rows, keys) // 64, lines)](
        q, k, v, shared, reach, q8, k8, v8, q_scale, n_q, n_k, rows, keys, heads,
        channels**-0.5 * math.log2(math.e), WHOLE=whole, NARROW_V=narrow_v, MOST=most,
        V_MOST=v_most, CHANNELS=channels, TOKENS=64, num_warps=4,
    )  # fmt: skip
    return Rounded(q8, k8, v8, q_scale, shared[1], reach[1] / v_most)
