"""int8 product with everything that follows it in one Triton kernel.

torch's own int8 product writes its sums as int32 and somebody has to read them again: for a wide
layer that is more traffic than the product's inputs. Here sums stay in registers until they are
scaled, biased, optionally bent by GELU and rounded to the output's type.
"""

# pyright: reportMissingImports=false, reportMissingParameterType=false
# pyright: reportUntypedFunctionDecorator=false, reportPossiblyUnboundVariable=false
# pyright: reportIndexIssue=false, reportFunctionMemberAccess=false
from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from recurvid.ops.linear.products import int8_product
from recurvid.ops.linear.rounding import E4M3
from recurvid.ops.linear.tuning import time_calls

AVAILABLE = find_spec("triton") is not None

if AVAILABLE:
    import triton
    import triton.language as tl

    #: Tiles worth trying on Ampere to Hopper: rows, columns, depth, stages, warps.
    TILES = (
        (128, 256, 128, 3, 8),
        (256, 128, 128, 3, 8),
        (128, 128, 128, 4, 8),
        (128, 128, 64, 4, 4),
    )
    CONFIGS = [
        triton.Config(
            {"ROWS": m, "COLUMNS": n, "DEPTH": k, "GROUP": 8}, num_stages=stages, num_warps=warps
        )
        for m, n, k, stages, warps in TILES
    ]

    @triton.autotune(configs=CONFIGS, key=["power", "n", "k"], do_bench=time_calls)
    @triton.jit(do_not_specialize=["m", "power"])
    def int8_kernel(  # noqa: PLR0913, D103 - a kernel's signature is its data
        x, x_scale, weight, scale, bias, out, m, n, k, power,
        BIAS: tl.constexpr, GELU: tl.constexpr,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    ):  # fmt: skip
        # Programs walk down groups of row tiles, so that a weight tile is reused while in cache.
        program = tl.program_id(0)
        tiles_m, tiles_n = tl.cdiv(m, ROWS), tl.cdiv(n, COLUMNS)
        first = program // (GROUP * tiles_n) * GROUP
        height = min(tiles_m - first, GROUP)
        within = program % (GROUP * tiles_n)
        row = (first + within % height) * ROWS + tl.arange(0, ROWS)
        column = within // height * COLUMNS + tl.arange(0, COLUMNS)
        depth = tl.arange(0, DEPTH)
        # Rows and columns beyond the end wrap around: read for nothing, never written.
        x_at = x + (row % m).to(tl.int64)[:, None] * k + depth[None, :]
        weight_at = weight + (column % n).to(tl.int64)[None, :] * k + depth[:, None]
        sums = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
        for start in range(0, k, DEPTH):
            left = k - start
            a = tl.load(x_at, mask=depth[None, :] < left, other=0)
            b = tl.load(weight_at, mask=depth[:, None] < left, other=0)
            sums = tl.dot(a, b, sums, out_dtype=tl.int32)
            x_at += DEPTH
            weight_at += DEPTH
        inside_m, inside_n = row < m, column < n
        y = sums.to(tl.float32)
        y *= tl.load(x_scale + row, mask=inside_m, other=0)[:, None]
        y *= tl.load(scale + column, mask=inside_n, other=0)[None, :]
        if BIAS:
            y += tl.load(bias + column, mask=inside_n, other=0).to(tl.float32)[None, :]
        if GELU:
            inner = 0.7978845608028654 * (y + 0.044715 * y * y * y)
            y = y / (1 + tl.exp(-2 * inner))  # 0.5 * y * (1 + tanh(inner))
        out_at = out + row.to(tl.int64)[:, None] * n + column[None, :]
        tl.store(out_at, y.to(out.dtype.element_ty), mask=inside_m[:, None] & inside_n[None, :])

    @triton.jit
    def round_kernel(  # noqa: PLR0913, D103
        a, b, codes, scale, k_a, k_b,
        GELU: tl.constexpr, FP8: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        # One program a token, the whole row in registers: read once, written once.
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, WIDTH)
        left, inside = column < k_a, column < k_a + k_b
        x = tl.load(b + row * k_b + column - k_a, mask=inside & (column >= k_a), other=0)
        x = x.to(tl.float32)
        if GELU:
            inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
            x = x / (1 + tl.exp(-2 * inner))
        x += tl.load(a + row * k_a + column, mask=left, other=0).to(tl.float32)
        step = tl.maximum(tl.max(tl.abs(x), axis=0), 1e-12) / (448 if FP8 else 127)
        x = x / step
        x = tl.minimum(tl.maximum(x, -448.0), 448.0) if FP8 else tl.floor(x + 0.5)
        at = codes + row * (k_a + k_b) + column
        tl.store(at, x.to(codes.dtype.element_ty), mask=inside)
        tl.store(scale + row, step)


@torch.library.custom_op(
    "recurvid::round_rows",
    mutates_args=(),
    schema="(Tensor? a, Tensor b, bool gelu, bool fp8=False) -> (Tensor, Tensor)",
)
def round_rows(a: Tensor | None, b: Tensor, gelu: bool, fp8: bool = False) -> tuple[Tensor, Tensor]:
    """Rows [a, b] or [a, gelu(b)], of (m, k_a) and (m, k_b), to int8 or e4m3, scales (m, 1)."""
    b = b.contiguous()
    a = b[:, :0] if a is None else a.contiguous()
    m, k_a, k_b = b.shape[0], a.shape[1], b.shape[1]
    codes = torch.empty(m, k_a + k_b, dtype=E4M3 if fp8 else torch.int8, device=b.device)
    scale = torch.empty(m, 1, device=b.device)
    width = triton.next_power_of_2(k_a + k_b)
    flags = {"GELU": gelu, "FP8": fp8, "WIDTH": width}
    round_kernel[(m,)](a, b, codes, scale, k_a, k_b, **flags, num_warps=8)
    return codes, scale


@round_rows.register_fake
def _(a: Tensor | None, b: Tensor, gelu: bool, fp8: bool = False) -> tuple[Tensor, Tensor]:
    k = b.shape[1] + (0 if a is None else a.shape[1])
    codes = torch.empty(b.shape[0], k, dtype=E4M3 if fp8 else torch.int8, device=b.device)
    return codes, torch.empty(b.shape[0], 1, device=b.device)


@torch.library.custom_op(
    "recurvid::int8_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor x_scale, Tensor weight, Tensor scale, Tensor? bias, "
    "ScalarType dtype, bool gelu) -> Tensor",
)
def int8_linear(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    gelu: bool,
) -> Tensor:
    """Codes x (m, k) and weight (n, k), scales (m, 1) and (n, 1), to (m, n) of ``dtype``."""
    x, x_scale = x.contiguous(), x_scale.contiguous()
    (m, k), n = x.shape, weight.shape[0]
    out = torch.empty(m, n, dtype=dtype, device=x.device)
    arguments = (x, x_scale, weight, scale, scale if bias is None else bias, out, m, n, k)
    arguments = (*arguments, m.bit_length())  # chooses the tile, not every length of a prompt
    flags = {"BIAS": bias is not None, "GELU": gelu}

    def grid(tile: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(m, tile["ROWS"]) * triton.cdiv(n, tile["COLUMNS"]),)

    if x.is_cuda:
        int8_kernel[grid](*arguments, **flags)
    else:  # Triton's interpreter, in tests: small tiles, nothing to tune
        tile = {"ROWS": 16, "COLUMNS": 32, "DEPTH": 32, "GROUP": 2}
        int8_kernel.fn[grid(tile)](*arguments, **flags, **tile)
    return out


@int8_linear.register_fake
def _(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    gelu: bool,
) -> Tensor:
    return torch.empty(x.shape[0], weight.shape[0], dtype=dtype, device=x.device)


def int8_fused_product(
    x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """int8 codes through our kernel, bf16 result; torch's product where there is no Triton."""
    if not (AVAILABLE and x.is_cuda):
        return int8_product(x, x_scale, weight, scale, bias)
    return int8_linear(x, x_scale, weight, scale, bias, torch.bfloat16, False)
