"""Noise levels of a run, and the time shift that bends them (paper.md section 4, "Flow-shift")."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recurvid.errors import InputError


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Flux's time shift: sigma -> shift * sigma / (1 + (shift - 1) * sigma).

    Keeps 0 and 1 exactly where they are, however small the shift; a shift above 1 spends more of
    the steps at high noise.
    """
    return shift * sigma / ((1 - sigma) + shift * sigma)


def dynamic_shift(
    noisy_tokens: int,
    *,
    cap: float = 7.0,
    base: tuple[int, float] = (256, 0.5),
    maximum: tuple[int, float] = (4096, 1.15),
) -> float:
    """Shift of a section, min(exp(mu), cap), with mu linear in the number of *noisy* tokens.

    Args:
        noisy_tokens: video tokens of the target alone; context tokens do not count.
        cap: upper limit of the shift (7 in the released code; its g9 at 480p reaches it).
        base, maximum: (tokens, mu) of the two points that fix the line.
    """
    if noisy_tokens <= 0:
        raise InputError(f"the number of noisy tokens must be positive, not {noisy_tokens}")
    slope = (maximum[1] - base[1]) / (maximum[0] - base[0])
    mu = base[1] + slope * (noisy_tokens - base[0])
    # Compared before exp(): a few million tokens would overflow it.
    return math.exp(mu) if mu < math.log(cap) else float(cap)


def flow_sigmas(
    steps: int,
    shift: float = 1.0,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Noise levels of ``steps`` solver steps: (steps + 1,), descending, exactly 1 to exactly 0.

    Computed in float64 and rounded once.

    Raises:
        InputError: ``steps`` below 1, or a shift that is not a positive finite number.
    """
    if type(steps) is not int or steps < 1:
        raise InputError(f"steps must be a whole number from 1 on, not {steps}")
    if not (math.isfinite(shift) and shift > 0):
        raise InputError(f"the flow shift must be a positive number, not {shift}")
    linear = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    return shift_sigma(linear, shift).to(device=device, dtype=dtype)
