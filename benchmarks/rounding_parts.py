"""Which layers give the error of 8-bit products, and what finer rounding takes away.

A stage of step_speed.py ("parts"): one uncompiled step a line, with the products of some layers
simulated: codes are whole numbers that bf16 says exactly, multiplied in bf16 with fp32 sums.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurvid.models.quantized import bears_few_bits
from recurvid.ops.linear.rounding import to_e4m3

KINDS = {
    "qkv": r"attn\.(to_[qkv]|add_[qkv]_proj)$",
    "attention out": r"attn\.(to_out\.0|to_add_out)$",
    "mlp in": r"(ff(_context)?\.net\.0\.proj|proj_mlp)$",
    "mlp out": r"(ff(_context)?\.net\.2|proj_out)$",
    "text": r"(add_[qkv]_proj|to_add_out|ff_context)",
    "double": r"^transformer_blocks",
    "single": r"^single_transformer_blocks",
    "first 5 of each": r"transformer_blocks\.[0-4]\.",
    "all": "",
    "all but first 3 of each": r"transformer_blocks\.([3-9]|\d\d)\.",
    "all but first 5 of each": r"transformer_blocks\.([5-9]|\d\d)\.",
    "all but first 5 double": r"(^transformer_blocks\.([5-9]|\d\d)\.|^single)",
}
BEHIND_GELU = re.compile(KINDS["mlp out"])


@dataclass(frozen=True)
class Way:
    """How numbers are rounded: weights, activations, and activations behind GELU."""

    weight: Callable[[Tensor], Tensor]
    x: Callable[[Tensor], Tensor]
    bent: Callable[[Tensor], Tensor] | None = None


def symmetric(x: Tensor, group: int = 0) -> Tensor:
    """int8 by rows, or by groups of a row; as the numbers that the codes stand for."""
    y = x.float()
    y = y.unflatten(-1, (-1, math.gcd(group, y.shape[-1]))) if group else y
    scale = y.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    y = (y / scale).round() * scale
    return (y.flatten(-2) if group else y).to(x.dtype)


def shifted(x: Tensor, group: int = 0) -> Tensor:
    """uint8 by rows from the least to the largest number."""
    y = x.float()
    y = y.unflatten(-1, (-1, math.gcd(group, y.shape[-1]))) if group else y
    low = y.amin(-1, keepdim=True)
    scale = (y.amax(-1, keepdim=True) - low).clamp_min(1e-12) / 255
    zero = (low / scale).round()
    y = ((y / scale).round() - zero).clamp(0, 255) * scale + zero * scale
    return (y.flatten(-2) if group else y).to(x.dtype)


def fp8(x: Tensor) -> Tensor:
    codes, scale = to_e4m3(x.flatten(0, -2))
    return (codes.float() * scale).to(x.dtype).unflatten(0, x.shape[:-1])


def plain(x: Tensor) -> Tensor:
    return x


WAYS = {
    "int8": Way(symmetric, symmetric),
    "int8, weights only": Way(symmetric, plain),
    "int8, shifted behind GELU": Way(symmetric, symmetric, shifted),
    "int8, all shifted": Way(symmetric, shifted, shifted),
    "int8, groups of 128, shifted": Way(
        lambda w: symmetric(w, 128), lambda x: symmetric(x, 128), lambda x: shifted(x, 128)
    ),
    "fp8": Way(fp8, fp8),
    "fp8, weights int8": Way(symmetric, fp8),
}
TRIED = [
    *(("int8", kind) for kind in ("all", *(k for k in KINDS if not k.startswith("all")))),
    *((way, "all") for way in WAYS if way != "int8"),
    ("int8, shifted behind GELU", "mlp out"),
    *(("fp8", kind) for kind in ("qkv", "attention out", "mlp in", "mlp out")),
]


TRIED_KEPT = [
    *(("int8", kind) for kind in ("all", *(k for k in KINDS if k.startswith("all but")))),
    *(("int8, groups of 128, shifted", "all"), ("fp8", "all")),
]


class Simulated(nn.Module):
    """A linear layer of rounded weights and activations."""

    def __init__(self, layer: nn.Linear, way: Way, behind_gelu: bool):
        super().__init__()
        self.rounded = way.bent if behind_gelu and way.bent else way.x
        weight = layer.weight
        parts = weight.split(1024)
        self.weight = torch.cat([way.weight(part) for part in parts])
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.rounded(part) for part in x.split(4096, dim=1)]
        return F.linear(torch.cat(parts, dim=1), self.weight, self.bias)


def simulate(model: nn.Module, way: Way, kind: str) -> int:
    """Put simulated layers in; returns how many."""
    pattern, count = re.compile(KINDS[kind]), 0
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and bears_few_bits(name) and pattern.search(name):
            parent, _, last = name.rpartition(".")
            made = Simulated(layer, way, BEHIND_GELU.search(name) is not None)
            setattr(model.get_submodule(parent), last, made)
            count += 1
    return count
