"""What 8-bit attention does to its inputs, in plain torch: scales, smoothing of K, and a model.

Adding one vector to all keys adds one number to all scores of a query, which softmax does not
see. So the mean of K over the tokens can be taken away before rounding, as SageAttention does:
where keys share a large offset, what is left needs fewer bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

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


def simulated(
    q: Tensor, k: Tensor, v: Tensor, *, smooth: bool = True, narrow_out: bool = True
) -> Tensor:
    """Attention with everything rounded to fp8 as ``cudnn-fp8`` does, in plain torch.

    q and k by a fixed factor, V around its mean by a factor a channel, the softmax's weights
    (at most 1, their sum is taken before) and, unless not ``narrow_out``, the result. Products
    are exact; the kernel's own sums add little to that.
    """
    q8, k8 = (normed_to_e4m3(x).float() / FIXED for x in (q, smoothed(k) if smooth else k))
    mean, reach, inner = around_mean(v)
    v8 = (inner * E4M3_MAX).to(E4M3).float()
    scores = torch.einsum("bqhd,bkhd->bhqk", q8, k8) * q.shape[-1] ** -0.5
    weights = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    total = weights.sum(dim=-1).transpose(1, 2)[..., None]
    rounded = (weights * E4M3_MAX).to(E4M3).float() / E4M3_MAX
    out = torch.einsum("bhqk,bkhd->bqhd", rounded, v8) / total
    out = out.clamp(-E4M3_MAX, E4M3_MAX).to(E4M3).float() if narrow_out else out
    return (out * (reach / E4M3_MAX) + mean).to(q.dtype)


def simulated_by_token(q: Tensor, k: Tensor, v: Tensor, *, whole: bool) -> Tensor:
    """Attention with everything rounded as ``triton-fp8`` does, or ``triton-int8`` if ``whole``.

    A factor a token for q, one a head for K without its mean, V as above; weights of the softmax
    reach 2^8.75 in e4m3, their sum is taken before.
    """
    most = 127.0 if whole else E4M3_MAX
    q, k32 = q.float(), k.float() - k.float().mean(1, keepdim=True)
    q_step = q.abs().amax(-1, keepdim=True).clamp_min(1e-12) / most
    k_step = k32.abs().amax((1, 3), keepdim=True).clamp_min(1e-12) / most
    q8, k8 = (
        torch.floor(x + 0.5) if whole else x.clamp(-most, most).to(E4M3).float()
        for x in (q / q_step, k32 / k_step)
    )
    mean, reach, inner = around_mean(v)
    v8 = (inner * E4M3_MAX).to(E4M3).float()
    scores = torch.einsum("bqhd,bkhd->bhqk", q8 * q_step, k8 * k_step) * q.shape[-1] ** -0.5
    weights = torch.exp(scores - scores.amax(dim=-1, keepdim=True)) * 2**8.75
    total = weights.sum(dim=-1).transpose(1, 2)[..., None]
    out = torch.einsum("bhqk,bkhd->bqhd", weights.to(E4M3).float(), v8) / total
    return (out * (reach / E4M3_MAX) + mean).to(v.dtype)
