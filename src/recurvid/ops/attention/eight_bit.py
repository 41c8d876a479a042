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


#: q and k come from a norm: their numbers are near 1 whatever the layer. fp8 floats, so that one
#: fixed factor serves, up to 56 before it and down to 0.002 at full precision, and nobody has to
#: look for the largest number first.
FIXED = 8.0


def normed_to_e4m3(x: Tensor) -> Tensor:
    """What an RMS norm made, times ``FIXED``, as fp8."""
    return (x.float() * FIXED).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)


def around_mean(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """V (b, n, heads, head_dim) as its mean over the tokens, and how far it goes from there.

    Weights of a softmax add up to 1, so that the mean can be put back after the product: what all
    tokens share is not rounded at all. Returns the mean, the reach (both (b, 1, heads, head_dim)
    fp32) and (v - mean) / reach, within -1 and 1.
    """
    x = v.float()
    mean, low, high = x.mean(1, keepdim=True), x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    reach = torch.maximum(high - mean, mean - low).clamp_min(1e-12)
    return mean, reach, (x - mean) / reach


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
