"""Backbone + conditioning + context -> Denoiser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from recurvid.caching.protocol import CachedStep, Step
from recurvid.conditioning import Conditioning
from recurvid.errors import NumericsError
from recurvid.generation.step_caches import Caching
from recurvid.latents import LatentFrames
from recurvid.models.protocol import Backbone, PreparingBackbone
from recurvid.packing.pack import Packed
from recurvid.sampling.denoiser import Denoiser, guided, velocity_to_denoised
from recurvid.sampling.stepping import SolverStep


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
    caching: Caching | None = None,
    sigmas: Tensor | None = None,
) -> Denoiser:
    """A denoiser of one section; model inputs are cast to ``dtype``, the state stays as it is.

    Args:
        backbone: predicts the velocity, noise - data.
        conditioning, packed: of the section, on the backbone's device.
        guidance: whether a second pass steers away from a negative prompt.
        dtype: of the model's inputs; the state x keeps float32.
        caching: each pass gets a cache of its own, born here; None runs every step in full.
        sigmas: (steps + 1,) that the run will look at, for a backbone that prepares them.
    """
    packed = Packed(
        packed.context.to(device=packed.target_index.device, dtype=dtype), packed.target_index
    )
    section: list[Any] = []  # made at the first call, which tells the shape of x; for both passes

    def one_pass(told: Conditioning) -> Denoiser:
        if isinstance(backbone, PreparingBackbone) and sigmas is not None:
            rows, device = told.text.shape[0], told.text.device
            backbone.prepare(told, [_timestep(sigma, rows, device) for sigma in sigmas[:-1]])

        steps = _cached_steps(caching)

        @torch.no_grad()
        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            target = LatentFrames(x.to(dtype), packed.target_index)
            if not section:
                section.append(backbone.embed_section(packed.context, target))
            timestep = _timestep(sigma, x.shape[0], x.device)
            velocity = backbone(
                target, timestep, told, packed.context, section=section[0], cache=next(steps)
            )
            return velocity_to_denoised(x, velocity, sigma)

        return denoise

    if guidance.negative is None or guidance.cfg_scale == 1.0:
        return one_pass(conditioning)
    return guided(
        one_pass(conditioning),
        one_pass(guidance.negative),
        guidance.cfg_scale,
        guidance.cfg_rescale,
    )


def _cached_steps(caching: Caching | None) -> Iterator[CachedStep | None]:
    """What each call of one pass is handed as its cache."""
    if caching is None:
        return repeat(None)
    cache, sigmas = caching.new(), caching.sigmas
    steps = (Step(index, len(sigmas), sigma) for index, sigma in enumerate(sigmas))
    return (CachedStep(cache, step) for step in steps)


def _timestep(sigma: Tensor, rows: int, device: torch.device) -> Tensor:
    """(rows,) float32, the same bits whoever asks."""
    return (1000.0 * sigma).to(device, torch.float32).expand(rows)


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
