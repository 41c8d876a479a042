"""ODE solvers of the flow, dx/dsigma = (x - x0(x, sigma)) / sigma, as generators.

A solver yields one ``SolverStep`` after each step, so whoever drives it reports progress, shows a
preview, or stops by closing it. The x of the last step is the result. The state keeps the dtype it
came in (float32 or better is meant), whatever the denoiser computes in. A slope at sigma 0 is never
asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from recurvid.sampling.denoiser import Denoiser
from recurvid.sampling.stepping import Solver, SolverStep, evaluate, levels
from recurvid.sampling.unipc import unipc, unipc_logsnr

__all__ = ["SOLVERS", "Solver", "SolverStep", "euler", "heun", "solve"]


def euler(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Iterator[SolverStep]:
    """First order, one call a step. Exact where x0 does not change along the path."""
    sigma = levels(sigmas)
    for i in range(len(sigma) - 1):
        denoised = evaluate(denoiser, x, sigmas[i])
        x = x + (sigma[i + 1] - sigma[i]) * ((x - denoised) / sigma[i])
        yield SolverStep(i, len(sigma) - 1, sigma[i], x, denoised)


def heun(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Iterator[SolverStep]:
    """Second order: two calls a step, one in a last step that ends at 0 (EDM, 2206.00364)."""
    sigma = levels(sigmas)
    for i in range(len(sigma) - 1):
        denoised = evaluate(denoiser, x, sigmas[i])
        slope = (x - denoised) / sigma[i]
        ahead = x + (sigma[i + 1] - sigma[i]) * slope
        if sigma[i + 1] > 0:
            slope_ahead = (ahead - evaluate(denoiser, ahead, sigmas[i + 1])) / sigma[i + 1]
            ahead = x + (sigma[i + 1] - sigma[i]) * (slope + slope_ahead) / 2
        x = ahead
        yield SolverStep(i, len(sigma) - 1, sigma[i], x, denoised)


def solve(solver: Solver, denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Run a solver to its end and return the state at the last sigma."""
    for step in solver(denoiser, x, sigmas):
        x = step.x
    return x


SOLVERS: dict[str, Solver] = {
    "euler": euler,
    "heun": heun,
    "unipc": unipc,
    "unipc-bh2": partial(unipc, variant="bh2"),
    "unipc-logsnr": unipc_logsnr,
}
"""Solvers by the name that a request gives them; "unipc" is the original's."""
