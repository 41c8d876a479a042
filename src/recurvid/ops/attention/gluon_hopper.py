"""The kernel of triton_eight_bit for Hopper, with what Triton leaves to itself written out.

One warp fetches. Two groups of four warps have 64 queries each: the product of the next keys and
that of the last values are under way while weights are made of the scores between them, and the
groups take turns at the tensor cores. Written in Gluon, an experimental part of Triton 3.6.
"""

# pyright: reportMissingImports=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportPossiblyUnboundVariable=false
# pyright: reportIndexIssue=false, reportFunctionMemberAccess=false
# pyright: reportOptionalMemberAccess=false
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recurvid.ops.attention.triton_rounding import Rounded

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

if AVAILABLE:
    # Newer ones have another name for it.
    fetch_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
    MAGIC = gl.constexpr(12582912.0)  # see triton_eight_bit
    MAGIC_BITS = gl.constexpr(0x4B400000)
    LIFT = gl.constexpr(8.75)
    HALF = gl.constexpr(ROWS // 2)

    @gluon.jit
    def fetch(  # noqa: PLR0913, D103
        q, k, v, q_all, k_all, v_all, q_ready, k_ready, v_ready, free,
        line, first, turns, padded_q, padded_k,
    ):  # fmt: skip
        stages: gl.constexpr = k_all.shape[0]
        keys: gl.constexpr = k_all.shape[1]
        channels: gl.constexpr = k_all.shape[2]
        mbarrier.expect(q_ready, 2 * q.block_type.nbytes)
        for group in gl.static_range(2):
            at = line * padded_q + first + group * HALF
            fetch_tile(q, [at, 0], q_ready, q_all.index(group))
        for turn in range(turns):
            stage = turn % stages
            # Values of a turn are the last that is read of its stage.
            mbarrier.wait(free.index(stage), ((turn // stages) & 1) ^ 1)
            mbarrier.expect(k_ready.index(stage), k.block_type.nbytes)
            at = line * padded_k + turn * keys
            fetch_tile(k, [at, 0], k_ready.index(stage), k_all.index(stage))
            mbarrier.expect(v_ready.index(stage), v.block_type.nbytes)
            at = turn * keys
            fetch_tile(v, [line * channels, at], v_ready.index(stage), v_all.index(stage))

    @gluon.jit
    def start_scores(a, b, WHOLE: gl.constexpr, KEYS: gl.constexpr, layout: gl.constexpr):  # noqa: D103
        if WHOLE:
            bits = gl.full([HALF, KEYS], MAGIC_BITS, gl.int32, layout)
            s = warpgroup_mma(a, b, bits, is_async=True)
        else:
            empty = gl.zeros([HALF, KEYS], gl.float32, layout)
            s = warpgroup_mma(a, b, empty, use_acc=False, is_async=True)
        return s

    @gluon.jit
    def weighed(s, scale, top, total, WHOLE: gl.constexpr):  # noqa: D103
        if WHOLE:
            s = s.to(gl.float32, bitcast=True)
            highest = gl.maximum((gl.max(s, axis=1) - MAGIC) * scale, top)
            shift = LIFT - highest - MAGIC * scale
        else:
            highest = gl.maximum(gl.max(s, axis=1) * scale, top)
            shift = LIFT - highest
        p = gl.exp2(gl.fma(s, gl.expand_dims(scale, 1), gl.expand_dims(shift, 1)))
        fade = gl.exp2(top - highest)
        total = total * fade + gl.sum(p, axis=1)
        return p, highest, total, fade

    @gluon.jit
    def packed(p, KEYS: gl.constexpr):  # noqa: D103
        # Keys are relabelled so that what a thread has of the scores is what it gives as an
        # operand; four weights are one word, or each would have a register of its own in the loop.
        p = p.reshape([HALF, KEYS // 32, 2, 2, 4, 2]).permute((0, 1, 2, 4, 3, 5))
        even, odd = gl.split(p.reshape([HALF, KEYS // 4, 2, 2]))
        first, third = gl.split(even)
        second, fourth = gl.split(odd)
        return gl.inline_asm_elementwise(
            """{ .reg .b16 low, high;
            cvt.rn.satfinite.e4m3x2.f32 low, $2, $1;
            cvt.rn.satfinite.e4m3x2.f32 high, $4, $3;
            mov.b32 $0, {low, high}; }""",
            "=r,r,r,r,r",
            [first, second, third, fourth],
            dtype=gl.int32,
            is_pure=True,
            pack=1,
        )

    @gluon.jit
    def unpacked(words, KEYS: gl.constexpr, layout: gl.constexpr):  # noqa: D103
        two = gl.join(words, words)
        four = gl.join(two, two).reshape([HALF, KEYS])
        # In this layout four neighbours of a row are registers in a row, all the same word.
        four = gl.convert_layout(four, layout, assert_trivial=True)
        codes = gl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r,r,r,r", [four], dtype=gl.int8, is_pure=True, pack=4
        )
        return codes.to(gl.float8e4nv, bitcast=True)

    @gluon.jit
    def in_rows(x, layout: gl.constexpr):  # noqa: D103
        return gl.expand_dims(gl.convert_layout(x, gl.SliceLayout(1, layout)), 1)

    @gluon.jit
    def finished(more, sums, fade, APART: gl.constexpr, layout: gl.constexpr):  # noqa: D103
        # Sums with those of the turn before, in its scale.
        added = warpgroup_mma_wait(0, deps=[more])
        return sums * in_rows(fade, layout) + added if APART else added

    @gluon.jit
    def attend_half(  # noqa: PLR0913, D103
        q_all, k_all, v_all, q_ready, k_ready, v_ready, free, turn_of,
        q_scale, v_mean, v_step, out, line, first, turns, n_q, n_k, padded_q, heads,
        GROUP: gl.constexpr, WHOLE: gl.constexpr, APART: gl.constexpr, TURNS: gl.constexpr,
        HELD: gl.constexpr,
    ):  # fmt: skip
        stages: gl.constexpr = k_all.shape[0]
        keys: gl.constexpr = k_all.shape[1]
        channels: gl.constexpr = k_all.shape[2]
        s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, keys, 32])
        o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, channels, 32])
        w_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 4)
        row_layout: gl.constexpr = gl.SliceLayout(1, s_layout)
        row = first + GROUP * HALF + gl.arange(0, HALF, row_layout)
        scale = gl.load(q_scale + line.to(gl.int64) * padded_q + row)
        mbarrier.wait(q_ready, 0)
        a = q_all.index(GROUP)
        if HELD:
            a = a.load(gl.DotOperandLayout(0, s_layout, 4))
        if TURNS and GROUP == 1:
            mbarrier.arrive(turn_of.index(0))
        empty = gl.zeros([HALF, channels], gl.float32, o_layout)
        top = gl.full([HALF], -1e30, gl.float32, row_layout)
        total = gl.zeros([HALF], gl.float32, row_layout)
        sums = empty
        mbarrier.wait(k_ready.index(0), 0)
        coming = start_scores(a, k_all.index(0).permute((1, 0)), WHOLE, keys, s_layout)
        s = warpgroup_mma_wait(0, deps=[coming])
        p, top, total, fade = weighed(s, scale, top, total, WHOLE)
        words = packed(p, keys)
        mbarrier.wait(k_ready.index(1 % stages), (1 // stages) & 1, pred=turns > 1)
        for turn in range(1, turns):
            stage, before = turn % stages, (turn - 1) % stages
            if TURNS:
                mbarrier.wait(turn_of.index(GROUP), (turn - 1) & 1)
            coming = start_scores(a, k_all.index(stage).permute((1, 0)), WHOLE, keys, s_layout)
            mbarrier.wait(v_ready.index(before), ((turn - 1) // stages) & 1)
            values = v_all.index(before).permute((1, 0))
            weight = unpacked(words, keys, w_layout)
            if APART:
                more = warpgroup_mma(weight, values, empty, use_acc=False, is_async=True)
            else:
                more = warpgroup_mma(weight, values, sums, is_async=True)
            if TURNS:
                mbarrier.arrive(turn_of.index(1 - GROUP))
            s = warpgroup_mma_wait(1, deps=[coming])
            old = fade
            p, top, total, fade = weighed(s, scale, top, total, WHOLE)
            # Waiting for the next keys here keeps the assembler from putting off the weights until
            # the products are done: it moves nothing across a branch.
            after = turn + 1
            ready = k_ready.index(after % stages)
            mbarrier.wait(ready, (after // stages) & 1, pred=after < turns)
            sums = finished(more, sums, old, APART, o_layout)
            mbarrier.arrive(free.index(before))
            words = packed(p, keys)  # not before: registers of the last ones are being read
            if not APART:
                sums *= in_rows(fade, o_layout)
        last = (turns - 1) % stages
        mbarrier.wait(v_ready.index(last), ((turns - 1) // stages) & 1)
        if APART:
            sums *= in_rows(fade, o_layout)
        weight = unpacked(words, keys, w_layout)
        more = warpgroup_mma(weight, v_all.index(last).permute((1, 0)), sums, is_async=True)
        sums = warpgroup_mma_wait(0, deps=[more])
        # Zeros that fill up the last turn have scored 0.
        total -= (turns * keys - n_k) * gl.exp2(LIFT - top)
        channel = gl.arange(0, channels, gl.SliceLayout(0, o_layout))
        at = line * channels + channel
        y = sums * in_rows(1 / total, o_layout) * gl.expand_dims(gl.load(v_step + at), 0)
        y += gl.expand_dims(gl.load(v_mean + at), 0)
        row = first + GROUP * HALF + gl.arange(0, HALF, gl.SliceLayout(1, o_layout))
        to = (line // heads * n_q + row).to(gl.int64) * heads + line % heads
        to = gl.expand_dims(to * channels, 1) + gl.expand_dims(channel, 0)
        inside = gl.expand_dims(row < n_q, 1)
        gl.store(out + to, y.to(out.dtype.element_ty), mask=inside)

    @gluon.jit(do_not_specialize=["n_q", "n_k"])
    def hopper_attention_kernel(  # noqa: PLR0913, D103
        q, k, v, q_scale, v_mean, v_step, out, n_q, n_k, padded_q, padded_k, heads,
        WHOLE: gl.constexpr, STAGES: gl.constexpr, APART: gl.constexpr, TURNS: gl.constexpr,
        HELD: gl.constexpr,
    ):  # fmt: skip
        keys: gl.constexpr = k.block_type.shape[0]
        channels: gl.constexpr = k.block_type.shape[1]
        q_all = gl.allocate_shared_memory(q.dtype, [2, HALF, channels], q.layout)
        k_all = gl.allocate_shared_memory(k.dtype, [STAGES, keys, channels], k.layout)
        v_all = gl.allocate_shared_memory(v.dtype, [STAGES, channels, keys], v.layout)
        q_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        turn_of = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
        k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
        v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
        free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
        mbarrier.init(q_ready, count=1)
        for i in gl.static_range(2):
            mbarrier.init(turn_of.index(i), count=1)
        for i in gl.static_range(STAGES):
            mbarrier.init(k_ready.index(i), count=1)
            mbarrier.init(v_ready.index(i), count=1)
            mbarrier.init(free.index(i), count=2)
        fence_async_shared()  # the copy engine, too, has to see them
        line, first = gl.program_id(1), gl.program_id(0) * (2 * HALF)
        turns = gl.cdiv(n_k, keys)
        gl.warp_specialize(
            [
                (attend_half, (
                    q_all, k_all, v_all, q_ready, k_ready, v_ready, free, turn_of,
                    q_scale, v_mean, v_step, out, line, first, turns, n_q, n_k, padded_q, heads,
                    0, WHOLE, APART, TURNS, HELD,
                )),
                (attend_half, (
                    q_all, k_all, v_all, q_ready, k_ready, v_ready, free, turn_of,
                    q_scale, v_mean, v_step, out, line, first, turns, n_q, n_k, padded_q, heads,
                    1, WHOLE, APART, TURNS, HELD,
                )),
                (fetch, (
                    q, k, v, q_all, k_all, v_all, q_ready, k_ready, v_ready, free,
                    line, first, turns, padded_q, padded_k,
                )),
            ],
            [4, 1],
            [240, 24],
        )  # fmt: skip


@dataclass(frozen=True)
class HopperTile:
    """How the kernel works.

    Attributes:
        keys: of one turn of the loop.
        stages: turns whose keys and values fit into shared memory.
        apart: weights times values are summed apart in each turn and then added, exactly.
        turns: whether the two groups of warps take turns at the tensor cores.
        held: whether queries stay in registers.
    """

    keys: int = 128
    stages: int = 4
    apart: bool = False
    turns: bool = True
    held: bool = True


HOPPER_TILES = {
    "hopper": HopperTile(),
    "hopper-apart": HopperTile(apart=True, held=False),
    "hopper-free": HopperTile(turns=False),
    "hopper-shared": HopperTile(held=False),
    "hopper-apart-free": HopperTile(apart=True, turns=False, held=False),
    "hopper-64": HopperTile(keys=64, stages=6),
}


def multiply_hopper(given: Rounded, out: Tensor, keys: int, tile: HopperTile) -> None:
    """Attention of rounded q, k and v into ``out`` (b, n, heads, head_dim), contiguous."""
    b, n, heads, channels = out.shape
    padded_q, padded_k = given.q.shape[2], given.k.shape[2]
    across = gl.NVMMASharedLayout(channels, 8, 2)
    along = gl.NVMMASharedLayout(min(tile.keys, 128), 8, 2)
    q = TensorDescriptor.from_tensor(given.q.view(-1, channels), [ROWS // 2, channels], across)
    k = TensorDescriptor.from_tensor(given.k.view(-1, channels), [tile.keys, channels], across)
    v = TensorDescriptor.from_tensor(given.v.view(-1, padded_k), [channels, tile.keys], along)
    hopper_attention_kernel[(triton.cdiv(n, ROWS), b * heads)](
        q, k, v, given.q_scale, given.v_mean, given.v_step, out, n, keys, padded_q, padded_k, heads,
        WHOLE=given.q.dtype == torch.int8, STAGES=tile.stages, APART=tile.apart, TURNS=tile.turns,
        HELD=tile.held, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
