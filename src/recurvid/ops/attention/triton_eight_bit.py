"""8-bit attention in a Triton kernel of our own: ``triton-fp8`` and ``triton-int8``.

Scores are products of e4m3 or int8 codes; softmax weights and V are e4m3, or float16 on cards
without fp8. Sums are fp32. Zeros that fill up the last tile score 0 and are taken out of the sum of
weights at the end: K is without its mean, so that a query's largest score is never below that.
"""

# pyright: reportMissingImports=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportPossiblyUnboundVariable=false
# pyright: reportIndexIssue=false, reportFunctionMemberAccess=false
from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.gluon_hopper import AVAILABLE as GLUON
from recurvid.ops.attention.gluon_hopper import HOPPER_TILES, multiply_hopper
from recurvid.ops.attention.requirements import Requirements
from recurvid.ops.attention.sdpa import SHORT
from recurvid.ops.attention.sdpa import attend as exact
from recurvid.ops.attention.triton_rounding import AVAILABLE, Rounded, rounded

HOPPER, HAS_FP8 = (9, 0), (8, 9)

if AVAILABLE:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor

    #: Whole numbers up to 2^22 are added to the bits of this float and read as one: no conversion.
    MAGIC = tl.constexpr(12582912.0)
    MAGIC_BITS = tl.constexpr(0x4B400000)
    #: Weights are at most 2^8.75 = 431, under what e4m3 holds (448).
    LIFT = tl.constexpr(8.75)

    @triton.jit
    def handed_on(p, ROWS: tl.constexpr, KEYS: tl.constexpr):  # noqa: D103
        # Relabels keys so that what a thread has of the scores is what it gives as an operand.
        p = p.reshape(ROWS, KEYS // 32, 2, 2, 4, 2)
        return p.permute(0, 1, 2, 4, 3, 5).reshape(ROWS, KEYS)

    @triton.jit
    def keys_at(  # noqa: D103
        k, line, start, padded, ENGINE: tl.constexpr, CHANNELS: tl.constexpr, KEYS: tl.constexpr
    ):
        if ENGINE:
            b = k.load([line * padded + start, 0]).T
        else:
            at = (line.to(tl.int64) * padded + start + tl.arange(0, KEYS))[None, :] * CHANNELS
            b = tl.load(k + at + tl.arange(0, CHANNELS)[:, None])
        return b

    @triton.jit
    def values_at(  # noqa: PLR0913, D103
        v, line, start, padded, ENGINE: tl.constexpr, NARROW: tl.constexpr,
        CHANNELS: tl.constexpr, KEYS: tl.constexpr,
    ):  # fmt: skip
        key, channel = start + tl.arange(0, KEYS), tl.arange(0, CHANNELS)
        if ENGINE:
            c = v.load([line * CHANNELS, start]).T
        elif NARROW:
            at = (line.to(tl.int64) * CHANNELS + channel)[None, :] * padded
            c = tl.load(v + at + key[:, None])
        else:
            at = (line.to(tl.int64) * padded + key)[:, None] * CHANNELS
            c = tl.load(v + at + channel[None, :])
        return c

    @triton.jit
    def scored(  # noqa: D103
        a, b, scale, WHOLE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr
    ):
        # Scores before their scale, what has to be taken from them for it, and each row's highest.
        if WHOLE:
            bits = tl.full((ROWS, KEYS), MAGIC_BITS, dtype=tl.int32)
            s = tl.dot(a, b, bits, out_dtype=tl.int32).to(tl.float32, bitcast=True)
            offset = MAGIC * scale
            highest = (tl.max(s, axis=1) - MAGIC) * scale
        else:
            s = tl.dot(a, b)
            offset = tl.zeros_like(scale)
            highest = tl.max(s, axis=1) * scale
        return s, offset, highest

    @triton.jit
    def brought_down(  # noqa: D103
        highest, top, total, sums, LAZY: tl.constexpr, APART: tl.constexpr
    ):
        fade = tl.full(top.shape, 1.0, dtype=tl.float32)
        if LAZY > 0:
            # Only when a row outgrows its scale by so many powers of two.
            if tl.max(highest - top, axis=0) > LAZY:
                highest = tl.maximum(highest, top)
                fade = tl.exp2(top - highest)
                total *= fade
                sums *= fade[:, None]
                top = highest
        else:
            highest = tl.maximum(highest, top)
            fade = tl.exp2(top - highest)
            total *= fade
            if not APART:
                sums *= fade[:, None]
            top = highest
        return top, total, sums, fade

    @triton.jit(do_not_specialize=["n_q", "n_k"])
    def attention_kernel(  # noqa: PLR0913, D103 - a kernel's signature is its data
        q, k, v, q_scale, v_mean, v_step, out, n_q, n_k, padded_q, padded_k, heads,
        WHOLE: tl.constexpr, NARROW_V: tl.constexpr, ENGINE: tl.constexpr,
        CHANNELS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr,
        APART: tl.constexpr, SPECIAL: tl.constexpr, LAZY: tl.constexpr,
    ):  # fmt: skip
        line, first = tl.program_id(1), tl.program_id(0) * ROWS
        row, channel = first + tl.arange(0, ROWS), tl.arange(0, CHANNELS)
        lift: tl.constexpr = (LIFT if NARROW_V else 0.0) - LAZY
        if ENGINE:
            a = q.load([line * padded_q + first, 0])
        else:
            at = (line.to(tl.int64) * padded_q + row)[:, None] * CHANNELS
            a = tl.load(q + at + channel[None, :])
        scale = tl.load(q_scale + line.to(tl.int64) * padded_q + row)
        top = tl.full((ROWS,), -1e30, dtype=tl.float32)
        total = tl.zeros((ROWS,), dtype=tl.float32)
        sums = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
        for start in tl.range(0, n_k, KEYS, num_stages=STAGES, warp_specialize=SPECIAL):
            b = keys_at(k, line, start, padded_k, ENGINE, CHANNELS, KEYS)
            s, offset, highest = scored(a, b, scale, WHOLE, ROWS, KEYS)
            top, total, sums, fade = brought_down(highest, top, total, sums, LAZY, APART)
            p = tl.exp2(s * scale[:, None] + (-top - offset + lift)[:, None])
            total += tl.sum(p, axis=1)
            weight = handed_on(p.to(tl.float8e4nv), ROWS, KEYS) if NARROW_V else p.to(tl.float16)
            c = values_at(v, line, start, padded_k, ENGINE, NARROW_V, CHANNELS, KEYS)
            if APART:
                sums = (sums if LAZY > 0 else sums * fade[:, None]) + tl.dot(weight, c)
            else:
                sums = tl.dot(weight, c, sums)
        # Zeros that fill up the last turn have scored 0.
        total -= (tl.cdiv(n_k, KEYS) * KEYS - n_k) * tl.exp2(lift - top)
        y = sums * (1 / total)[:, None]
        at = line * CHANNELS + channel
        y = y * tl.load(v_step + at)[None, :] + tl.load(v_mean + at)[None, :]
        to = (line // heads * n_q + row).to(tl.int64)[:, None] * heads + line % heads
        to = out + to * CHANNELS + channel[None, :]
        tl.store(to, y.to(out.dtype.element_ty), mask=(row < n_q)[:, None])


@dataclass(frozen=True)
class Tile:
    """How one program of the kernel works.

    Attributes:
        rows: queries of a program.
        keys: keys of one turn of its loop.
        stages: turns whose keys and values are under way.
        warps: of a program.
        lazy: powers of two by which a row may outgrow its scale before sums are brought down; 0
            does so in every turn.
        apart: weights times values are summed apart in each turn and then added, exactly.
        special: loads have warps of their own.
    """

    rows: int = 128
    keys: int = 64
    stages: int = 3
    warps: int = 4
    lazy: int = 0
    apart: bool = False
    special: bool = False


TILES = {
    "128x64": Tile(),
    "128x128": Tile(keys=128, warps=8, apart=True),
    "128x256": Tile(keys=256, stages=2, warps=8, lazy=4),
    "128x128-lazy": Tile(keys=128, warps=8, lazy=4),
    "128x64-deep": Tile(stages=4),
    "128x256-plain": Tile(keys=256, stages=2, warps=8),
    "128x64-wide": Tile(warps=8),
    "64x128": Tile(rows=64, keys=128, stages=2),
}
#: The tile to take from a compute capability on. With 16 rows a warp weights stay in registers.
CHOICE = {(12, 0): "128x64-wide", (10, 0): "128x128", (9, 0): "hopper", (8, 0): "128x64-wide"}


def attend_fp8(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, tile: str = "") -> Tensor:
    """A kernel of ours: scores and weights in fp8."""
    return _attend(q, k, v, mask, whole=False, tile=tile)


def attend_int8(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, tile: str = "") -> Tensor:
    """A kernel of ours: scores in int8, weights in fp8 or, on cards without it, in 16 bits."""
    return _attend(q, k, v, mask, whole=True, tile=tile)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, whole: bool, tile: str
) -> Tensor:
    assert mask is None
    if q.shape[1] < SHORT:
        return exact(q, k, v, mask)
    return eight_bit_attention(q, k, v, whole, tile)


@torch.library.custom_op(
    "recurvid::eight_bit_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, bool whole, str tile) -> Tensor",
)
def eight_bit_attention(q: Tensor, k: Tensor, v: Tensor, whole: bool, tile: str) -> Tensor:
    """q, k, v (b, n, heads, head_dim) to the form of q; ``tile`` by its name, or "" to choose."""
    card = _capability(q.device)
    narrow_v = card >= HAS_FP8
    given = rounded(q, k, v, whole=whole, narrow_v=narrow_v)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    name = tile or chosen(card)
    if name in HOPPER_TILES:
        multiply_hopper(given, out, k.shape[1], HOPPER_TILES[name])
    else:
        multiply(given, out, k.shape[1], TILES[name], engine=card >= HOPPER and narrow_v)
    return out


def chosen(card: tuple[int, int]) -> str:
    """The tile for a compute capability; without Gluon one that needs none."""
    name = next(name for least, name in CHOICE.items() if card >= least)
    return "128x64" if name in HOPPER_TILES and not GLUON else name


@eight_bit_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, whole: bool, tile: str) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def multiply(given: Rounded, out: Tensor, keys: int, tile: Tile, *, engine: bool) -> None:
    """Attention of rounded q, k and v into ``out`` (b, n, heads, head_dim).

    Args:
        given: what ``rounded`` has made.
        out: contiguous.
        keys: how many there are, without those that fill up.
        tile: of the kernel.
        engine: whether tiles come through the card's copy engine: Hopper and newer.
    """
    b, n, heads, channels = out.shape
    padded_q, padded_k = given.q.shape[2], given.k.shape[2]
    q, k, v = given.q, given.k, given.v
    narrow_v = v.dtype != torch.float16
    if engine:
        q = TensorDescriptor.from_tensor(q.view(-1, channels), [tile.rows, channels])
        k = TensorDescriptor.from_tensor(k.view(-1, channels), [tile.keys, channels])
        v = TensorDescriptor.from_tensor(v.view(-1, padded_k), [channels, tile.keys])
    attention_kernel[(triton.cdiv(n, tile.rows), b * heads)](
        q, k, v, given.q_scale, given.v_mean, given.v_step, out, n, keys, padded_q, padded_k, heads,
        WHOLE=given.q.dtype == torch.int8, NARROW_V=narrow_v, ENGINE=engine, CHANNELS=channels,
        ROWS=tile.rows, KEYS=tile.keys, STAGES=tile.stages, APART=tile.apart,
        SPECIAL=tile.special, LAZY=float(tile.lazy), num_warps=tile.warps,
        num_stages=tile.stages, enable_fp_fusion=True,
    )  # fmt: skip


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    """Of a card; in Triton's interpreter as if it had everything."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else HOPPER


TRITON_FP8 = AttentionBackend(
    "triton-fp8",
    attend_fp8,
    Requirements(library="triton", capability=HAS_FP8, head_dim=128, multiple=64, grad=False),
    exact=False,
)
TRITON_INT8 = AttentionBackend(
    "triton-int8",
    attend_int8,
    Requirements(library="triton", capability=(8, 0), head_dim=128, multiple=64, grad=False),
    exact=False,
)
