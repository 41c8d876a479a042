"""Backbone + conditioning + context -> Denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recurvid.conditioning import Conditioning
from recurvid.errors import NumericsError
from recurvid.latents import LatentFrames
from recurvid.packing.pack import Packed, PackedContext
from recurvid.sampling.denoiser import Denoiser, guided, velocity_to_denoised
from recurvid.sampling.stepping import SolverStep

Backbone = Callable[..., Tensor]
"""``(target, timestep, conditioning, context) -> velocity``, as PackedDiT.forward."""


@dataclass(frozen=True)
class Guidance:
    """Real classifier-free guidance: the second pass and its weight; 1.0 is off."""

    cfg_scale: float = 1.0
    cfg_rescale: float = 0.0
    negative: Conditioning | None = None


def make_denoiser(
    backbone: Backbone,
    conditioning: Conditioning,
    packed: Packed,
    guidance: Guidance,
    dtype: torch.dtype,
) -> Denoiser:
    """A denoiser of one section; model inputs are cast to ``dtype``, the state stays as it is.

    Args:
        backbone: predicts the velocity, noise - data.
        conditioning, packed: of the section, on the backbone's device.
        guidance: whether a second pass steers away from a negative prompt.
        dtype: of the model's inputs; the state x keeps float32.
    """
    context = packed.context.to(device=packed.target_index.device, dtype=dtype)
    cond = _one_pass(backbone, conditioning, packed.target_index, context, dtype)
    if guidance.negative is None or guidance.cfg_scale == 1.0:
        return cond
    uncond = _one_pass(backbone, guidance.negative, packed.target_index, context, dtype)
    return guided(cond, uncond, guidance.cfg_scale, guidance.cfg_rescale)


def check_finite(step: SolverStep, section: int, dtype: torch.dtype) -> None:
    """Stop at the first NaN or infinity instead of decoding a black video.

    Raises:
        NumericsError: saying where it appeared and what to try.
    """
    if bool(torch.isfinite(step.x).all()):
        return
    name = str(dtype).removeprefix("torch.")
    other = "bfloat16 or float32" if dtype == torch.float16 else "float32"
    raise NumericsError(
        f"section {section + 1}, step {step.index + 1} of {step.steps}: the model returned NaN or "
        f"infinity in {name}; try --dtype {other}"
    )


def _one_pass(
    backbone: Backbone,
    conditioning: Conditioning,
    index: Tensor,
    context: PackedContext,
    dtype: torch.dtype,
) -> Denoiser:
    @torch.no_grad()
    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        timestep = (1000.0 * sigma).to(x.device, torch.float32).expand(x.shape[0])
        velocity = backbone(LatentFrames(x.to(dtype), index), timestep, conditioning, context)
        return velocity_to_denoised(x, velocity, sigma)

    return denoise
