"""Attention as the formula says it, in fp32: slow, and what every other kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from recurvid.ops.attention.backend import AttentionBackend, AttentionSpec


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Explicit softmax attention. fp64 inputs stay fp64, everything else is computed in fp32."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.to(dtype), k.to(dtype)) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
    weights = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v.to(dtype)).to(q.dtype)


def _why_not(spec: AttentionSpec) -> str | None:
    return None if spec.dtype.is_floating_point else f"{spec.dtype} is not floating point"


REFERENCE = AttentionBackend("reference", attend, _why_not)
