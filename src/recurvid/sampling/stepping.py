"""What every solver takes and yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from recurvid.errors import InputError
from recurvid.sampling.denoiser import Denoiser


@dataclass(frozen=True)
class SolverStep:
    """What a solver knows after a step.

    Attributes:
        index: 0-based number of the step just finished, out of ``steps``.
        sigma: noise level that the step started from.
        x: (b, ...), the state at the next noise level.
        denoised: (b, ...), the clean data seen at ``sigma``.
    """

    index: int
    steps: int
    sigma: float
    x: Tensor
    denoised: Tensor


Solver = Callable[[Denoiser, Tensor, Tensor], Iterator[SolverStep]]
"""``(denoiser, x at sigmas[0], sigmas (n + 1,) descending) -> n SolverSteps``."""


def levels(sigmas: Tensor) -> list[float]:
    """The noise levels as numbers.

    Raises:
        InputError: fewer than two, not strictly descending, or outside 0..1.
    """
    values = [float(s) for s in sigmas]
    descending = all(a > b for a, b in pairwise(values))
    if len(values) < 2 or not descending or values[0] > 1 or values[-1] < 0:
        few = ", ".join(f"{value:g}" for value in values[:4])
        raise InputError(
            f"the {len(values)} sigmas ({few}, ...) must be at least two and descend strictly "
            "within 1..0; an extreme shift makes neighbours equal"
        )
    return values


def evaluate(denoiser: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
    """One model call, brought back to the state's dtype and device."""
    return denoiser(x, sigma.to(x.device)).to(x)
