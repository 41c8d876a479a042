"""Attention in 16 bits for Hopper, in a kernel of our own: ``gluon``.

The parts are gluon_hopper's: one warp fetches; two groups of four warps have 64 queries each, have
the product of the next keys and that of the last values under way while they make weights of the
scores between them, and take turns at the tensor cores. Keys are walked from the last to the first,
so that only the turn before the loop has some to leave out.
"""

# pyright: reportMissingImports=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportPossiblyUnboundVariable=false
# pyright: reportIndexIssue=false, reportFunctionMemberAccess=false
# pyright: reportOptionalMemberAccess=false
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recurvid.ops.attention.backend import AttentionBackend
from recurvid.ops.attention.requirements import Requirements
from recurvid.ops.attention.sdpa import SHORT
from recurvid.ops.attention.sdpa import attend as exact

try:
    import triton
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.language.nvidia.hopper import (
        fence_async_shared,
        mbarrier,
        tma,
        warpgroup_mma,
        warpgroup_mma_wait,
    )
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
except ImportError:  # no Triton, or one whose Gluon is another
    triton = None
AVAILABLE = triton is not None

ROWS = 128  # queries of a program
CHANNELS = 128

if AVAILABLE:
    # Newer ones have another name for it.
    fetch_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
    HALF = gl.constexpr(ROWS // 2)

    @gluon.jit
    def fetch(  # noqa: PLR0913, D103
        q, k, v, q_all, k_all, v_all, q_ready, k_ready, v_ready, k_free, v_free,
        sample, head, first, turns,
    ):  # fmt: skip
        stages: gl.constexpr = k_all.shape[0]
        keys: gl.constexpr = k_all.shape[3]
        for group in gl.static_range(2):
            mbarrier.expect(q_ready.index(group), q.block_type.nbytes)
            at = first + group * HALF
            fetch_tile(q, [sample, head, at, 0], q_ready.index(group), q_all.index(group))
        for turn in range(turns):
            stage, empty = turn % stages, ((turn // stages) & 1) ^ 1
            at = (turns - 1 - turn) * keys
            mbarrier.wait(k_free.index(stage), empty)
            mbarrier.expect(k_ready.index(stage), k.block_type.nbytes)
            fetch_tile(k, [sample, head, at, 0], k_ready.index(stage), k_all.index(stage))
            mbarrier.wait(v_free.index(stage), empty)
            mbarrier.expect(v_ready.index(stage), v.block_type.nbytes)
            fetch_tile(v, [sample, head, at, 0], v_ready.index(stage), v_all.index(stage))

    @gluon.jit
    def start_scores(a, k_all, stage, layout: gl.constexpr):  # noqa: D103
        keys: gl.constexpr = k_all.shape[3]
        channels: gl.constexpr = k_all.shape[4]
        b = k_all.index(stage).reshape([keys, channels]).permute((1, 0))
        empty = gl.zeros([HALF, keys], gl.float32, layout)
        return warpgroup_mma(a, b, empty, use_acc=False, is_async=True)

    @gluon.jit
    def start_values(weight, v_all, stage, sums):  # noqa: D103
        keys: gl.constexpr = v_all.shape[3]
        channels: gl.constexpr = v_all.shape[4]
        b = v_all.index(stage).reshape([keys, channels])
        return warpgroup_mma(weight, b, sums, is_async=True)

    @gluon.jit
    def added(p):  # noqa: D103
        # What a thread has of a row, apart from what its neighbours have: they meet at the end.
        return gl.sum(p.reshape([p.shape[0], p.shape[1] // 8, 8]), axis=1)

    @gluon.jit
    def in_rows(x, like):  # noqa: D103
        return gl.expand_dims(gl.convert_layout(x, gl.SliceLayout(1, like.type.layout)), 1)

    @gluon.jit
    def attend_half(  # noqa: PLR0913, D103
        q_all, k_all, v_all, q_ready, k_ready, v_ready, k_free, v_free, turn_of,
        out, scale, sample, head, first, turns, n_q, n_k, heads,
        GROUP: gl.constexpr, TURNS: gl.constexpr, HELD: gl.constexpr,
    ):  # fmt: skip
        stages: gl.constexpr = k_all.shape[0]
        keys: gl.constexpr = k_all.shape[3]
        channels: gl.constexpr = k_all.shape[4]
        s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, keys, 16])
        o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, channels, 16])
        w_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
        mbarrier.wait(q_ready.index(GROUP), 0)
        a = q_all.index(GROUP).reshape([HALF, channels])
        if HELD:
            a = a.load(gl.DotOperandLayout(0, s_layout, 2))
        if TURNS and GROUP == 1:
            mbarrier.arrive(turn_of.index(0))
        mbarrier.wait(k_ready.index(0), 0)
        coming = start_scores(a, k_all, 0, s_layout)
        s = warpgroup_mma_wait(0, deps=[coming])
        mbarrier.arrive(k_free.index(0))
        key = (turns - 1) * keys + gl.arange(0, keys, gl.SliceLayout(0, s_layout))
        s = gl.where(gl.expand_dims(key < n_k, 0), s, float("-inf"))
        top = gl.max(s, axis=1) * scale
        p = gl.exp2(s * scale - gl.expand_dims(top, 1))
        total = added(p)
        weight = gl.convert_layout(p.to(out.dtype.element_ty), w_layout)
        sums = gl.zeros([HALF, channels], gl.float32, o_layout)
        mbarrier.wait(k_ready.index(1 % stages), (1 // stages) & 1, pred=turns > 1)
        for turn in range(1, turns):
            stage, before = turn % stages, (turn - 1) % stages
            if TURNS:
                mbarrier.wait(turn_of.index(GROUP), (turn - 1) & 1)
            coming = start_scores(a, k_all, stage, s_layout)
            mbarrier.wait(v_ready.index(before), ((turn - 1) // stages) & 1)
            more = start_values(weight, v_all, before, sums)
            if TURNS:
                mbarrier.arrive(turn_of.index(1 - GROUP))
            s = warpgroup_mma_wait(1, deps=[coming])
            mbarrier.arrive(k_free.index(stage))
            highest = gl.maximum(gl.max(s, axis=1) * scale, top)
            p = gl.exp2(s * scale - gl.expand_dims(highest, 1))
            fade = gl.exp2(top - highest)
            top = highest
            total = total * in_rows(fade, total) + added(p)
            # Waiting for the next keys here keeps the assembler from putting off the weights until
            # the products are done: it moves nothing across a branch.
            after = turn + 1
            ready = k_ready.index(after % stages)
            mbarrier.wait(ready, (after // stages) & 1, pred=after < turns)
            sums = warpgroup_mma_wait(0, deps=[more])
            mbarrier.arrive(v_free.index(before))
            # Not before: registers of the last ones are being read.
            weight = gl.convert_layout(p.to(out.dtype.element_ty), w_layout)
            sums *= in_rows(fade, sums)
        last = (turns - 1) % stages
        mbarrier.wait(v_ready.index(last), ((turns - 1) // stages) & 1)
        more = start_values(weight, v_all, last, sums)
        sums = warpgroup_mma_wait(0, deps=[more])
        y = sums * in_rows(1 / gl.sum(total, axis=1), sums)
        row = first + GROUP * HALF + gl.arange(0, HALF, gl.SliceLayout(1, o_layout))
        channel = gl.arange(0, channels, gl.SliceLayout(0, o_layout))
        to = (sample * n_q + row).to(gl.int64) * heads + head
        to = gl.expand_dims(to * channels, 1) + gl.expand_dims(channel, 0)
        inside = gl.expand_dims(row < n_q, 1)
        gl.store(out + to, y.to(out.dtype.element_ty), mask=inside)

    @gluon.jit(do_not_specialize=["n_q", "n_k"])
    def sixteen_bit_kernel(  # noqa: PLR0913, D103
        q, k, v, out, scale, n_q, n_k, heads,
        STAGES: gl.constexpr, TURNS: gl.constexpr, HELD: gl.constexpr,
    ):  # fmt: skip
        keys: gl.constexpr = k.block_type.shape[2]
        channels: gl.constexpr = k.block_type.shape[3]
        q_all = gl.allocate_shared_memory(q.dtype, [2, 1, 1, HALF, channels], q.layout)
        k_all = gl.allocate_shared_memory(k.dtype, [STAGES, 1, 1, keys, channels], k.layout)
        v_all = gl.allocate_shared_memory(v.dtype, [STAGES, 1, 1, keys, channels], v.layout)
        q_ready = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
        turn_of = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
        k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
        v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
        k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
        v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
        for i in gl.static_range(2):
            mbarrier.init(q_ready.index(i), count=1)
            mbarrier.init(turn_of.index(i), count=1)
        for i in gl.static_range(STAGES):
            mbarrier.init(k_ready.index(i), count=1)
            mbarrier.init(v_ready.index(i), count=1)
            mbarrier.init(k_free.index(i), count=2)
            mbarrier.init(v_free.index(i), count=2)
        fence_async_shared()  # the copy engine, too, has to see them
        # Programs side by side have the same head: its keys and values stay in the cache.
        line, first = gl.program_id(1), gl.program_id(0) * (2 * HALF)
        sample, head = line // heads, line % heads
        turns = gl.cdiv(n_k, keys)
        gl.warp_specialize(
            [
                (attend_half, (
                    q_all, k_all, v_all, q_ready, k_ready, v_ready, k_free, v_free, turn_of,
                    out, scale, sample, head, first, turns, n_q, n_k, heads, 0, TURNS, HELD,
                )),
                (attend_half, (
                    q_all, k_all, v_all, q_ready, k_ready, v_ready, k_free, v_free, turn_of,
                    out, scale, sample, head, first, turns, n_q, n_k, heads, 1, TURNS, HELD,
                )),
                (fetch, (
                    q, k, v, q_all, k_all, v_all, q_ready, k_ready, v_ready, k_free, v_free,
                    sample, head, first, turns,
                )),
            ],
            [4, 1],
            [240, 24],
        )  # fmt: skip


@dataclass(frozen=True)
class SixteenBitTile:
    """How the kernel works.

    Attributes:
        keys: of one turn of the loop.
        stages: turns whose keys and values fit into shared memory.
        turns: whether the two groups of warps take turns at the tensor cores.
        held: whether queries stay in registers.
    """

    keys: int = 128
    stages: int = 2
    turns: bool = True
    held: bool = False


SIXTEEN_BIT_TILES = {
    "hopper": SixteenBitTile(),
    "hopper-deep": SixteenBitTile(stages=3),
    "hopper-free": SixteenBitTile(turns=False),
    "hopper-held": SixteenBitTile(held=True),
    "hopper-64": SixteenBitTile(keys=64, stages=4),
}
#: The tile that is taken where none is named.
CHOICE = "hopper-held"


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, tile: str = "") -> Tensor:
    """A kernel of ours for Hopper in the inputs' own 16 bits."""
    assert mask is None
    if q.shape[1] < SHORT:
        return exact(q, k, v, mask)
    return sixteen_bit_attention(q, k, v, tile)


@torch.library.custom_op(
    "recurvid::sixteen_bit_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, str tile) -> Tensor",
)
def sixteen_bit_attention(q: Tensor, k: Tensor, v: Tensor, tile: str) -> Tensor:
    """q, k, v (b, n, heads, head_dim) to the form of q; ``tile`` by its name, or "" to choose."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    multiply(q, k, v, out, SIXTEEN_BIT_TILES[tile or CHOICE])
    return out


@sixteen_bit_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, tile: str) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def fetchable(x: Tensor) -> Tensor:
    """``x`` where the copy engine can step through it, else a copy."""
    *outer, last = x.stride()
    aligned = all(stride * x.element_size() % 16 == 0 for stride in outer)
    fits = last == 1 and aligned and x.data_ptr() % 16 == 0
    return x if fits else x.clone(memory_format=torch.contiguous_format)


def multiply(q: Tensor, k: Tensor, v: Tensor, out: Tensor, tile: SixteenBitTile) -> None:
    """Attention of q, k, v (b, n, heads, head_dim; any strides) into ``out``, contiguous."""
    b, n, heads, channels = out.shape
    layout = gl.NVMMASharedLayout(128, 16, 4)

    def tiles(x: Tensor, rows: int) -> TensorDescriptor:
        along = fetchable(x).transpose(1, 2)
        return TensorDescriptor.from_tensor(along, [1, 1, rows, channels], layout)

    sixteen_bit_kernel[(triton.cdiv(n, ROWS), b * heads)](
        tiles(q, ROWS // 2), tiles(k, tile.keys), tiles(v, tile.keys), out,
        math.log2(math.e) / math.sqrt(channels), n, k.shape[1], heads,
        STAGES=tile.stages, TURNS=tile.turns, HELD=tile.held, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip


GLUON = AttentionBackend(
    "gluon",
    attend,
    Requirements(
        library="triton.experimental.gluon.language.nvidia.hopper",
        package="triton>=3.6",
        capability=(9, 0),
        most_capability=(10, 0),
        head_dim=CHANNELS,
        multiple=CHANNELS,
        grad=False,
    ),
)
