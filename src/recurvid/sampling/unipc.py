"""UniPC: a multistep predictor whose corrector costs no model call (Zhao et al., 2302.04867).

Written from the paper (algorithms 5 to 8, data prediction). With the flow's alpha and sigma the
first-order part is the same line in every parametrisation, x0 + sigma'/sigma * (x - x0); what
differs is the variable lambda in which the higher orders see x0 as a polynomial, and the factor on
them:

    unipc         lambda = -log sigma,                factor 1          (as released; see paper.md)
    unipc-logsnr  lambda = log((1 - sigma) / sigma),  factor 1 - sigma'  (the paper's, for a flow)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recurvid.errors import InputError
from recurvid.sampling.denoiser import Denoiser
from recurvid.sampling.stepping import SolverStep, evaluate, levels

Variant = Literal["bh1", "bh2"]

# log((1 - sigma) / sigma) has no value at 0 and 1, so lambda is that of a sigma this much inside.
# It weighs the corrections alone: the first-order part takes sigma as it is.
_INSIDE = 1e-6


@dataclass(frozen=True)
class _Point:
    """A model call of the past: where in lambda, and the clean data it saw."""

    lam: float
    x0: Tensor


@dataclass(frozen=True)
class _Scheme:
    """The choices that make one UniPC of the family.

    Attributes:
        lam: lambda of a sigma in (0, 1].
        factor: what multiplies the correction of a step that ends at sigma'.
        variant: B(h) = h ("bh1") or e^h - 1 ("bh2"), at the paper's h -> -h of data prediction.
    """

    lam: Callable[[float], float]
    factor: Callable[[float], float]
    variant: Variant


def unipc(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, *, variant: Variant = "bh1", order: int = 3
) -> Iterator[SolverStep]:
    """UniPC as the released code runs it; one model call a step.

    The order grows from 1 to min(order, steps - 1) and stays there. A last sigma of 0 is not
    stepped to: the result is then the clean data seen at the last sigma above it, which makes the
    whole run first order at its end.
    """
    top = min(order, max(sigmas.numel() - 2, 1))
    scheme = _Scheme(lam=lambda s: -math.log(s), factor=lambda s: 1.0, variant=variant)
    return _multistep(denoiser, x, sigmas, scheme, lambda i: min(i + 1, top), order)


def unipc_logsnr(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, *, variant: Variant = "bh2", order: int = 3
) -> Iterator[SolverStep]:
    """UniPC in the flow's log-SNR; one model call a step.

    Towards a last sigma of 0, where lambda is infinite, the order falls to 2 and then to 1, and the
    last step is the exact limit (no infinity is ever formed, with bh1 neither).
    """
    steps = sigmas.numel() - 1
    to_zero = float(sigmas[-1]) == 0

    def lam(sigma: float) -> float:
        inside = min(max(sigma, _INSIDE), 1 - _INSIDE)
        return math.log1p(-inside) - math.log(inside)

    scheme = _Scheme(lam=lam, factor=lambda s: 1.0 - s, variant=variant)
    return _multistep(
        denoiser,
        x,
        sigmas,
        scheme,
        lambda i: min(i + 1, order, steps - i if to_zero else order),
        order,
    )


def _multistep(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    scheme: _Scheme,
    order_at: Callable[[int], int],
    order: int,
) -> Iterator[SolverStep]:
    """Call the model at sigma, correct the state there, predict the next one; repeat."""
    if not 1 <= order <= 3:
        raise InputError(f"UniPC has orders 1 to 3, not {order}")
    sigma = levels(sigmas)
    steps = len(sigma) - 1
    past: list[_Point] = []  # newest first
    start = x  # the corrected state that the last prediction began at
    for i in range(steps):
        here = _Point(scheme.lam(sigma[i]), evaluate(denoiser, x, sigmas[i]))
        if i > 0:
            used = past[: order_at(i - 1)]
            x = _advance(start, used, sigma[i - 1], sigma[i], scheme, ahead=here)
        past = [here, *past][:order]
        start = x
        if sigma[i + 1] > 0:
            x = _advance(start, past[: order_at(i)], sigma[i], sigma[i + 1], scheme)
        else:
            x = here.x0
        yield SolverStep(i, steps, sigma[i], x, here.x0)


def _advance(
    x: Tensor,
    past: list[_Point],
    sigma: float,
    target: float,
    scheme: _Scheme,
    ahead: _Point | None = None,
) -> Tensor:
    """One step of order len(past): the predictor, or the corrector.

    Args:
        x: state at ``sigma``; past[0] is the call made there.
        ahead: the call made at ``target``, which makes it the corrector.
    """
    now = past[0]
    h = scheme.lam(target) - now.lam
    others = past[1:] if ahead is None else [*past[1:], ahead]
    # Nodes in units of the step: the past lies below 0, the target at 1.
    nodes = [(point.lam - now.lam) / h for point in others]
    weights, size = _weights(nodes, h, scheme.variant)
    x = now.x0 + (target / sigma) * (x - now.x0)
    for weight, node, point in zip(weights, nodes, others, strict=True):
        x = x - (scheme.factor(target) * size * weight / node) * (point.x0 - now.x0)
    return x


def _weights(nodes: list[float], h: float, variant: Variant) -> tuple[list[float], float]:
    """Weights of the differences (m_k - m_0) / r_k, and B.

    With z = -h they solve sum_k r_k^(n-1) a_k = n! z phi_(n+1)(z) / B for n = 1..len(nodes), where
    z phi_1 = e^z - 1 and z phi_(n+1) = phi_n - 1/n! (the paper's theorem 3.1 and appendix on the
    data prediction). A single node takes 1/2 instead, which is right to the order needed.
    """
    z = -h
    size = z if variant == "bh1" else math.expm1(z)
    if not nodes:
        return [], size
    if len(nodes) == 1:
        return [0.5], size
    phi = math.expm1(z)  # z phi_1 here, z phi_(n+1) after round n
    right: list[float] = []
    factorial = 1
    for n in range(1, len(nodes) + 1):
        factorial *= n
        phi = phi / z - 1 / math.factorial(n)
        right.append(factorial * phi / size)
    rows = [[node**n for node in nodes] for n in range(len(nodes))]
    left = torch.tensor(rows, dtype=torch.float64)
    solution = torch.linalg.solve(left, torch.tensor(right, dtype=torch.float64))
    return solution.tolist(), size
