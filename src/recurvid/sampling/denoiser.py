"""The Denoiser type and guidance over it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""``(x (b, ...), sigma () ) -> denoised x0``, of x's shape. Sigma is a 0-dim tensor in (0, 1]."""


def velocity_to_denoised(x: Tensor, velocity: Tensor, sigma: Tensor | float) -> Tensor:
    """Clean data that a predicted velocity (noise - data) points at, x - sigma * v, in x's dtype.

    Args:
        x: (b, ...), the noisy state, float32 or better.
        velocity: as ``x``, in any floating point type (a bf16 backbone's output is widened first).
        sigma: scalar, or (b,) for a batch of different noise levels.
    """
    if isinstance(sigma, Tensor):
        sigma = sigma.to(device=x.device, dtype=x.dtype)
        if sigma.ndim == 1:
            sigma = sigma.view(-1, *(1,) * (x.ndim - 1))
    return x - sigma * velocity.to(x.dtype)


def guided(cond: Denoiser, uncond: Denoiser, cfg_scale: float, rescale: float = 0.0) -> Denoiser:
    """Real classifier-free guidance: two passes, the second with the negative prompt.

    Distilled guidance is not here: it is a number that the backbone embeds.

    Args:
        cond, uncond: denoisers with the prompt and with the negative prompt.
        cfg_scale: weight of the difference; at 1 ``uncond`` is never called.
        rescale: phi in 0..1 of Lin et al. 2305.08891 (eq. 15, 16): how much of the guided
            velocity's excess in standard deviation over the conditional one is taken back.
    """
    if cfg_scale == 1.0:
        return cond

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        positive = cond(x, sigma).to(x.dtype)
        negative = uncond(x, sigma).to(x.dtype)
        mixed = negative + cfg_scale * (positive - negative)
        if rescale == 0.0:
            return mixed
        return x - _rescale_factor(x - positive, x - mixed, rescale) * (x - mixed)

    return denoise


def _rescale_factor(positive: Tensor, mixed: Tensor, rescale: float) -> Tensor:
    """(b, 1, ...) factor phi * std(positive) / std(mixed) + 1 - phi.

    The arguments are x - x0 = sigma * velocity; in the ratio sigma cancels, so nothing is divided
    by it.
    """
    axes = list(range(1, mixed.ndim))
    have = mixed.std(dim=axes, keepdim=True)
    want = positive.std(dim=axes, keepdim=True)
    ratio = torch.where(have > 0, want / have.clamp_min(torch.finfo(have.dtype).tiny), 1.0)
    return rescale * ratio + (1.0 - rescale)
