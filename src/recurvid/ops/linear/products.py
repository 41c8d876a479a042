"""Products of 8-bit matrices, on whatever unit the device has for them.

Each takes codes of x (m, k) and of a weight (n, k) with their scales (m, 1) and (n, 1), and gives
x @ weight^T + bias (m, n). The plain paths, which convert the codes to float, run everywhere and
are what the fast ones are compared with.
"""

from __future__ import annotations

import torch
from torch import Tensor

# What torch's int8 product asks of a CUDA device: more than 16 rows, sides of multiples of 8.
LEAST_ROWS = 17
INT8_MULTIPLE, FP8_MULTIPLE = 8, 16


def plain_product(
    x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """In fp32; exact for int8 up to 1,040 terms and to rounding beyond."""
    return _finished(x.float() @ weight.float().t(), x_scale, scale, bias)


def int8_product(
    x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """int8 codes, sums in int32, fp32 result."""
    if not fits(x, weight, INT8_MULTIPLE):
        return plain_product(x, x_scale, weight, scale, bias)
    return _finished(torch.ops.aten._int_mm(x, weight.t()).float(), x_scale, scale, bias)


def fp8_row_product(
    x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """fp8 codes; the kernel itself applies the scales of rows and columns. bf16 result."""
    if not (x.is_cuda and fits(x, weight, FP8_MULTIPLE)):
        return plain_product(x, x_scale, weight, scale, bias)
    return torch.ops.aten._scaled_mm(
        x,
        weight.t(),
        scale_a=x_scale,
        scale_b=scale.t(),
        bias=None if bias is None else bias.bfloat16(),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def fp8_product(
    x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """fp8 codes; scales are applied to the bf16 sums, fused into what follows under compile.

    The largest sum of 15,360 terms, 448 * 448 * 15,360, is far inside bf16's range, and bf16
    rounds relatively, so that scaling before or after rounding makes no difference.
    """
    if not (x.is_cuda and fits(x, weight, FP8_MULTIPLE)):
        return plain_product(x, x_scale, weight, scale, bias)
    one = torch.ones((), device=x.device)
    sums = torch.ops.aten._scaled_mm(
        x, weight.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
    )
    return _finished(sums.float(), x_scale, scale, bias)


def scales_rows(device: torch.device) -> bool:
    """Whether the card's library scales rows itself: Hopper and newer.

    Whoever compiles it says first that it is constant (``models.compiled``).
    """
    return torch.cuda.get_device_capability(device) >= (9, 0)


def fp8_card_product(
    x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """fp8 codes by what is fastest on this card."""
    product = fp8_row_product if scales_rows(x.device) else fp8_product
    return product(x, x_scale, weight, scale, bias)


#: Products whose sums are written as 32-bit numbers before they are rounded to the result.
WITH_WIDE_SUMS = (plain_product, int8_product, fp8_product)


def fits(x: Tensor, weight: Tensor, multiple: int) -> bool:
    """Whether the units' own product takes these shapes."""
    n, k = weight.shape
    return x.shape[0] >= LEAST_ROWS and n % multiple == 0 and k % multiple == 0


def why_not_fp8(device: torch.device) -> str | None:
    """None where fp8 products run on the card's own units, else the reason in words."""
    if device.type == "cpu":
        return None  # the plain path, for tests and small models
    if device.type != "cuda":
        return f"{device.type} has no fp8 products"
    if not torch.cuda.is_available():
        return "there is no CUDA device here"
    found = torch.cuda.get_device_capability(device)
    if found < (8, 9):
        return f"fp8 needs compute capability 8.9, this card has {found[0]}.{found[1]}; take int8"
    return None


def _finished(sums: Tensor, x_scale: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    y = sums * x_scale * scale.t()
    return y if bias is None else y + bias.float()
