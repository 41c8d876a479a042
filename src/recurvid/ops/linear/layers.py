"""Linear layers with few bits; each is made from an ``nn.Linear`` and takes its place.

Codes and scales are buffers: they move between devices with the module. Do not cast the module to
another dtype: fp8 codes and scales would be cast with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurvid.ops.linear.pieces import pieces
from recurvid.ops.linear.products import (
    WITH_WIDE_SUMS,
    fp8_card_product,
    fp8_product,
    int8_product,
)
from recurvid.ops.linear.rounding import from_codebook, to_codebook, to_e4m3, to_int8
from recurvid.ops.linear.tma_int8 import int8_tma_linear, usable
from recurvid.ops.linear.triton_int8 import AVAILABLE, round_rows

Round = Callable[[Tensor], tuple[Tensor, Tensor]]
Product = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]


def bias_of(linear: nn.Linear) -> Tensor | None:
    """The bias without its gradient; torch's annotation denies that there may be none."""
    bias = cast("Tensor | None", linear.bias)
    return None if bias is None else bias.detach()


class EightBitLinear(nn.Module):
    """Weight rounded by rows once, activations by tokens at every call, product in 8 bits.

    ``product`` multiplies; None takes the fastest for the device at hand, at every call: a layer
    may be rounded in one place and run in another.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, rounded: Round, product: Product | None = None):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.rounded, self.product = rounded, product
        codes, scale = rounded(linear.weight.detach())
        self.register_buffer("weight", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias_of(linear))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features), in the dtype of x."""
        return self.of_codes(*self.codes_of(x), x)

    def codes_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of x (..., in_features) rounded, with their scales.

        Compiled code joins that to what comes before; else a kernel of ours reads x once.
        """
        rows = x.flatten(0, -2)
        known = self.rounded in (to_int8, to_e4m3)
        if AVAILABLE and known and rows.is_cuda and not torch.compiler.is_compiling():
            return round_rows(None, rows, False, self.rounded is to_e4m3)
        return self.rounded(rows)

    def of_codes(self, codes: Tensor, x_scale: Tensor, x: Tensor) -> Tensor:
        """The same where the rows of x have been rounded already."""
        return self._product(codes, x_scale, x.dtype).unflatten(0, x.shape[:-1])

    def _product(self, codes: Tensor, x_scale: Tensor, dtype: torch.dtype) -> Tensor:
        """(m, out_features) of codes (m, in_features), a piece at a time where sums are float32."""
        weight, scale, bias = self.weight, self.scale, self.bias
        if self.product is None and is_ours(codes, weight):
            return int8_tma_linear(codes, x_scale, weight, scale, bias, dtype)
        product = self.product or by_torch(codes)
        if torch.compiler.is_compiling() or product not in WITH_WIDE_SUMS:
            return product(codes, x_scale, weight, scale, bias).to(dtype)
        out = torch.empty(len(codes), self.out_features, dtype=dtype, device=codes.device)
        for part in pieces(*out.shape):
            out[part] = product(codes[part], x_scale[part], weight, scale, bias)
        return out


def is_ours(codes: Tensor, weight: Tensor) -> bool:
    """Whether our int8 kernels multiply these."""
    return codes.is_cuda and codes.dtype == torch.int8 and usable(weight)


def by_torch(codes: Tensor) -> Product:
    """Torch's fastest product for such codes."""
    if codes.dtype == torch.int8:
        return int8_product
    return fp8_card_product if codes.is_cuda else fp8_product


class Int8Storage(nn.Module):
    """Weight in int8 by rows, product in the activations' own dtype: memory, not speed."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        codes, scale = to_int8(linear.weight.detach())
        self.register_buffer("weight", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias_of(linear))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features), in the dtype of x."""
        weight = torch.empty_like(self.weight, dtype=x.dtype)
        for part in pieces(*weight.shape):
            weight[part] = self.weight[part].float() * self.scale[part]
        return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))


class CodebookLinear(nn.Module):
    """Weight as 4-bit indices into a book of values, one scale a group of 64."""

    weight: Tensor
    scale: Tensor
    book: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, book: tuple[float, ...]):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        codes, scale = to_codebook(linear.weight.detach(), book)
        self.register_buffer("weight", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("book", torch.tensor(book, device=codes.device))
        self.register_buffer("bias", bias_of(linear))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features), in the dtype of x."""
        return F.linear(
            x, self._wide(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        )

    def _wide(self, dtype: torch.dtype) -> Tensor:
        """The matrix; what leads from codes to it is larger, and is there in pieces."""
        if torch.compiler.is_compiling():
            return from_codebook(self.weight, self.scale, self.book, dtype)
        shape = (self.out_features, self.in_features)
        weight = torch.empty(shape, dtype=dtype, device=self.weight.device)
        for part in pieces(*shape):
            weight[part] = from_codebook(self.weight[part], self.scale[part], self.book, dtype)
        return weight


def int8(linear: nn.Linear) -> nn.Module:
    """W8A8: int8 weights by rows, int8 activations by tokens."""
    return EightBitLinear(linear, to_int8)


def fp8(linear: nn.Linear) -> nn.Module:
    """fp8 (e4m3) weights by rows, fp8 activations by tokens."""
    return EightBitLinear(linear, to_e4m3)


# The list's items go unsaid: checking them at run time, as tests do, cannot be compiled.
def several(x: Tensor, *layers: nn.Module) -> list:
    """What each layer makes of x, one tensor a layer; 8-bit layers share one rounding of it."""
    first = layers[0]
    if not isinstance(first, EightBitLinear):
        return [layer(x) for layer in layers]
    codes, x_scale = first.codes_of(x)
    return [
        layer.of_codes(codes, x_scale, x)
        if isinstance(layer, EightBitLinear) and layer.rounded is first.rounded
        else layer(x)
        for layer in layers
    ]
