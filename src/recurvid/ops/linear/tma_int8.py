"""The int8 product of triton_int8 for Hopper: tiles come through the card's bulk copy engine."""

# pyright: reportMissingImports=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportPossiblyUnboundVariable=false
# pyright: reportIndexIssue=false, reportFunctionMemberAccess=false
from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from recurvid.ops.linear.pieces import pieces
from recurvid.ops.linear.products import int8_product
from recurvid.ops.linear.triton_int8 import AVAILABLE, int8_fused_product, int8_linear
from recurvid.ops.linear.tuning import time_calls

HOPPER, TRITONS_LEAST = (9, 0), (8, 0)
MULTIPLE = 16  # rows of both matrices must start at multiples of 16 bytes

if AVAILABLE:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor

    def _describe_tiles(arguments: dict[str, Any]) -> None:
        """Let the descriptors fetch what the chosen tile needs."""
        depth = arguments["DEPTH"]
        arguments["x"].block_shape = [arguments["ROWS"], depth]
        arguments["weight"].block_shape = [arguments["COLUMNS"], depth]

    #: rows, columns, depth, stages, warps, and whether a program goes on to further tiles.
    TILES = (
        (128, 256, 128, 4, 8, False),
        (128, 256, 128, 3, 8, False),
        (256, 128, 128, 3, 8, False),
        (128, 128, 128, 3, 4, False),
        (128, 256, 128, 3, 8, True),
        (128, 128, 128, 3, 4, True),
    )
    CONFIGS = [
        triton.Config(
            {"ROWS": m, "COLUMNS": n, "DEPTH": k, "GROUP": 8, "STAYS": stays},
            num_stages=stages,
            num_warps=warps,
            pre_hook=_describe_tiles,
        )
        for m, n, k, stages, warps, stays in TILES
    ]

    @triton.jit
    def one_tile(  # noqa: PLR0913, D103
        tile, x, weight, x_scale, scale, bias, out, m, n, k, BIAS: tl.constexpr,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    ):  # fmt: skip
        tiles_m, tiles_n = tl.cdiv(m, ROWS), tl.cdiv(n, COLUMNS)
        first = tile // (GROUP * tiles_n) * GROUP
        height = min(tiles_m - first, GROUP)
        within = tile % (GROUP * tiles_n)
        row_0 = (first + within % height) * ROWS
        column_0 = within // height * COLUMNS
        sums = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
        for start in range(0, k, DEPTH):  # beyond the edges the engine reads zeros
            a = x.load([row_0, start])
            b = weight.load([column_0, start])
            sums = tl.dot(a, b.T, sums, out_dtype=tl.int32)
        row, column = row_0 + tl.arange(0, ROWS), column_0 + tl.arange(0, COLUMNS)
        inside_m, inside_n = row < m, column < n
        y = sums.to(tl.float32)
        y *= tl.load(x_scale + row, mask=inside_m, other=0)[:, None]
        y *= tl.load(scale + column, mask=inside_n, other=0)[None, :]
        if BIAS:
            y += tl.load(bias + column, mask=inside_n, other=0).to(tl.float32)[None, :]
        out_at = out + row.to(tl.int64)[:, None] * n + column[None, :]
        tl.store(out_at, y.to(out.dtype.element_ty), mask=inside_m[:, None] & inside_n[None, :])

    # A prompt's length changes the number of rows: neither that nor a multiple of 16 in it may
    # compile or measure anew, so tiles are chosen by its power of two.
    @triton.autotune(configs=CONFIGS, key=["power", "n", "k"], do_bench=time_calls)
    @triton.jit(do_not_specialize=["m", "power"])
    def tma_kernel(  # noqa: PLR0913, D103
        x, weight, x_scale, scale, bias, out, m, n, k, power, BIAS: tl.constexpr,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
        STAYS: tl.constexpr,
    ):  # fmt: skip
        if STAYS:  # the next tile's first loads run while this one is written
            tiles = tl.cdiv(m, ROWS) * tl.cdiv(n, COLUMNS)
            for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
                one_tile(tile, x, weight, x_scale, scale, bias, out, m, n, k, BIAS,
                         ROWS, COLUMNS, DEPTH, GROUP)  # fmt: skip
        else:
            one_tile(tl.program_id(0), x, weight, x_scale, scale, bias, out, m, n, k, BIAS,
                     ROWS, COLUMNS, DEPTH, GROUP)  # fmt: skip


@torch.library.custom_op(
    "recurvid::int8_tma_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor x_scale, Tensor weight, Tensor scale, Tensor? bias, "
    "ScalarType dtype) -> Tensor",
)
def int8_tma_linear(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Codes x (m, k) and weight (n, k), scales (m, 1) and (n, 1), to (m, n) of ``dtype``.

    Cards without the engine run the other kernel, Turing torch's product; asked here, where
    nothing is being compiled.
    """
    if x.is_cuda and torch.cuda.get_device_capability(x.device) < TRITONS_LEAST:
        return in_pieces(x, x_scale, weight, scale, bias, dtype)
    if x.is_cuda and torch.cuda.get_device_capability(x.device) < HOPPER:
        return int8_linear(x, x_scale, weight, scale, bias, dtype, False)
    x, x_scale = x.contiguous(), x_scale.contiguous()
    (m, k), n = x.shape, weight.shape[0]
    out = torch.empty(m, n, dtype=dtype, device=x.device)
    if x.is_cuda:
        blocks, programs = ([1, 1], [1, 1]), processors(x.device)
    else:  # Triton's interpreter, in tests
        blocks, programs = ([16, 32], [32, 32]), 2
    given = (
        TensorDescriptor.from_tensor(x, blocks[0]),
        TensorDescriptor.from_tensor(weight, blocks[1]),
        *(x_scale, scale, scale if bias is None else bias, out, m, n, k, m.bit_length()),
    )

    def grid(tile: dict[str, Any]) -> tuple[int]:
        tiles = triton.cdiv(m, tile["ROWS"]) * triton.cdiv(n, tile["COLUMNS"])
        return (min(tiles, programs * (256 // tile["COLUMNS"])) if tile["STAYS"] else tiles,)

    if x.is_cuda:
        tma_kernel[grid](*given, BIAS=bias is not None)
        return out
    stays = bool(m % 2)
    tile = {"ROWS": 16, "COLUMNS": 32, "DEPTH": 32, "GROUP": 2, "STAYS": stays}
    tma_kernel.fn[grid(tile)](*given, BIAS=bias is not None, **tile)
    return out


def in_pieces(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """The same by torch's product, whose wide sums are in memory a piece at a time."""
    out = torch.empty(len(x), len(weight), dtype=dtype, device=x.device)
    for part in pieces(*out.shape):
        out[part] = int8_product(x[part], x_scale[part], weight, scale, bias)
    return out


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a card."""
    return torch.cuda.get_device_properties(device).multi_processor_count


@int8_tma_linear.register_fake
def _(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    return torch.empty(x.shape[0], weight.shape[0], dtype=dtype, device=x.device)


def int8_tma_product(
    x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """int8 codes, bf16 result; the kernel without the copy engine where there is none."""
    if not (x.is_cuda and usable(weight)):
        return int8_fused_product(x, x_scale, weight, scale, bias)
    return int8_tma_linear(x, x_scale, weight, scale, bias, torch.bfloat16)


def usable(weight: Tensor) -> bool:
    """Whether our kernels are here and take a weight (n, k)."""
    n, k = weight.shape
    return AVAILABLE and k % MULTIPLE == 0 and n % MULTIPLE == 0
