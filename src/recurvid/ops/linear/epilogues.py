"""Products that do part of what follows them, so that a wide activation is written once.

At 480x832 the hidden layer of a block is 0.46 GB. GELU as an own kernel reads and writes it once
more; so does putting it beside the attended values for one product. Both can be had from the
library's product itself. Inference only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurvid.ops.linear.layers import EightBitLinear, bias_of
from recurvid.ops.linear.rounding import to_e4m3, to_int8
from recurvid.ops.linear.triton_int8 import AVAILABLE, round_rows

HALF = (torch.float16, torch.bfloat16)


def can_fuse(layer: nn.Module, x: Tensor) -> bool:
    """Whether the layer is a plain one, on a device whose library bends with tanh's GELU."""
    return (
        type(layer) is nn.Linear
        and bias_of(layer) is not None
        and x.is_cuda
        and x.dtype in HALF
        and not torch.is_grad_enabled()
    )


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """GELU (tanh) of a linear layer (..., k) -> (..., n), bent before it is written."""
    if not can_fuse(layer, x):
        return F.gelu(layer(x), approximate="tanh")
    assert isinstance(layer, nn.Linear)
    rows = x.reshape(-1, x.shape[-1])
    y = torch.ops.aten._addmm_activation(layer.bias, rows, layer.weight.t(), use_gelu=True)
    return y.unflatten(0, x.shape[:-1])


def linear_of_two(layer: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """A linear layer of [a, b] (..., k_a + k_b), without putting a and b side by side.

    The second product adds to the first one's result, which is rounded once more than in one
    product.
    """
    if not can_fuse(layer, a):
        return layer(torch.cat([a, b], dim=-1))
    assert isinstance(layer, nn.Linear)
    return sum_of_products(layer, a, b)


def sum_of_products(layer: nn.Linear, a: Tensor, b: Tensor) -> Tensor:
    """See :func:`linear_of_two`; the arithmetic, on any device."""
    split, lead = a.shape[-1], a.shape[:-1]
    left, right = layer.weight[:, :split], layer.weight[:, split:]
    rows = F.linear(b.reshape(-1, b.shape[-1]), right, layer.bias)
    rows = torch.addmm(rows, a.reshape(-1, split), left.t())
    return rows.unflatten(0, lead)


def rounds_in_one(layer: nn.Module, x: Tensor) -> bool:
    """Whether an 8-bit layer can be fed by our kernel: it bends, joins and rounds in one pass."""
    fits = isinstance(layer, EightBitLinear) and layer.rounded in (to_int8, to_e4m3)
    return AVAILABLE and fits and x.is_cuda


def after_gelu(layer: nn.Module, raw: Tensor, beside: Tensor | None = None) -> Tensor:
    """What an 8-bit ``layer`` makes of [beside, gelu(raw)] (..., k); each is read once."""
    assert isinstance(layer, EightBitLinear)
    rows = None if beside is None else beside.flatten(0, -2)
    codes, scale = round_rows(rows, raw.flatten(0, -2), True, layer.rounded is to_e4m3)
    return layer.of_codes(codes, scale, raw)
