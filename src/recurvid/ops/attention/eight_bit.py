"""What 8-bit attention does to its inputs, in plain torch: scales, smoothing of K, and a model.

Adding one vector to all keys adds one number to all scores of a query, which softmax does not
see. So the mean of K over the tokens can be taken away before rounding, as SageAttention does:
where keys share a large offset, what is left needs fewer bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recurvid.ops.attention.reference import attend as exact

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0


def smoothed(k: Tensor) -> Tensor:
    """K (b, n, heads, head_dim) without its mean over the tokens; the same attention."""
    return k - k.mean(dim=1, keepdim=True, dtype=torch.float32).to(k.dtype)


def to_e4m3(x: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor as fp8 and one fp32 factor that gives it back: x = codes * factor."""
    factor = x.abs().amax().float().clamp_min(1e-12) / E4M3_MAX
    return (x.float() / factor).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), factor


def simulated(q: Tensor, k: Tensor, v: Tensor, *, smooth: bool = True) -> Tensor:
    """Attention with q, k, v rounded to fp8 as the kernel does, everything after that exact.

    The kernel rounds the softmax's weights too: this is the lower bound of its error.
    """
    k = smoothed(k) if smooth else k
    q8, k8, v8 = (codes.float() * factor for codes, factor in map(to_e4m3, (q, k, v)))
    return exact(q8, k8, v8, None).to(q.dtype)
