"""What every solver promises. A new registry entry is picked up by itself."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from recurvid.errors import InputError
from recurvid.sampling.sigmas import flow_sigmas, shift_sigma
from recurvid.sampling.solvers import SOLVERS, solve
from recurvid.sampling.unipc import unipc, unipc_logsnr

MEAN, STD = 0.7, 0.5
EVERY = pytest.mark.parametrize("solver", [pytest.param(s, id=n) for n, s in SOLVERS.items()])


def toy(x, sigma):
    """Clean data of a Gaussian N(0.7, 0.5^2)."""
    alpha = 1 - sigma
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)


def exact(x, sigma, target):
    """The Gaussian's flow in closed form: the marginals' quantiles stay where they are."""

    def width(s):
        return math.sqrt((1 - s) ** 2 * STD**2 + s**2)

    return (1 - target) * MEAN + width(target) / width(sigma) * (x - (1 - sigma) * MEAN)


def start(dtype=torch.float64):
    return torch.tensor([0.3, -1.1, 2.0, 0.05], dtype=dtype).view(1, 4, 1, 1, 1)


@EVERY
@pytest.mark.parametrize("steps", [1, 2, 3, 9])
def test_exact_on_linear_flow(solver, steps):
    """x0 constant along the path: any number of steps arrives at it, and passes on the line."""
    data = start().flip(1) * 3
    sigmas = flow_sigmas(steps, 5.0, dtype=torch.float64)
    noise = start()
    for step, sigma in zip(
        solver(lambda x, s: data.clone(), noise, sigmas), sigmas[1:], strict=True
    ):
        torch.testing.assert_close(step.x, (1 - sigma) * data + sigma * noise)
        assert torch.equal(step.denoised, data)


@EVERY
def test_approaches_the_exact_flow(solver):
    errors = []
    for steps in (25, 100, 400):
        result = solve(solver, toy, start(), flow_sigmas(steps, 7.0, dtype=torch.float64))
        errors.append((result - exact(start(), 1.0, 0.0)).abs().max().item())
    assert errors[0] < 0.25
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.02


def measured_order(solver) -> float:
    def error(steps):
        sigmas = torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64)
        return (solve(solver, toy, start(), sigmas) - exact(start(), 0.9, 0.1)).abs().max().item()

    return math.log2(error(160) / error(320))


ORDERS = {"euler": 1, "heun": 2, "unipc": 4, "unipc-bh2": 4, "unipc-logsnr": 4}


@pytest.mark.parametrize("name", SOLVERS)
def test_order_of_convergence(name):
    assert name in ORDERS, f"say in ORDERS which order {name} has"
    assert measured_order(SOLVERS[name]) == pytest.approx(ORDERS[name], abs=0.4)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("family", [unipc, unipc_logsnr])
def test_order_of_convergence_of_the_unipc_family(family, order, variant):
    measured = measured_order(partial(family, order=order, variant=variant))
    assert measured == pytest.approx(order + 1, abs=0.4)


@EVERY
def test_is_a_generator_that_can_be_stopped(solver):
    calls = []

    def denoise(x, sigma):
        calls.append(float(sigma))
        return toy(x, sigma)

    running = solver(denoise, start(), flow_sigmas(9, 7.0))
    assert calls == []  # nothing runs before it is asked
    first = next(running)
    assert (first.index, first.steps, first.sigma) == (0, 9, 1.0)
    assert len(calls) <= 2
    running.close()
    assert next(running, None) is None
    assert len(calls) <= 2


@EVERY
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_counts_its_steps(solver, steps):
    seen = list(solver(toy, start(), flow_sigmas(steps, 7.0)))
    assert [s.index for s in seen] == list(range(steps))
    assert {s.steps for s in seen} == {steps}
    assert [s.sigma for s in seen] == flow_sigmas(steps, 7.0)[:-1].tolist()
    assert all(a.sigma > b.sigma for a, b in pairwise(seen))


@EVERY
def test_asks_only_at_noise_levels_above_zero(solver):
    asked = []

    def denoise(x, sigma):
        assert sigma.ndim == 0
        asked.append(float(sigma))
        return toy(x, sigma)

    sigmas = flow_sigmas(8, 7.0)
    result = solve(solver, denoise, start(), sigmas)
    assert torch.isfinite(result).all()
    assert set(asked) == set(sigmas[:-1].tolist())
    assert len(asked) <= 2 * 8


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_keeps_its_dtype_under_a_bf16_model(solver, dtype):
    def denoise(x, sigma):
        assert x.dtype == dtype
        return toy(x, sigma).bfloat16()

    noise = start(dtype)
    for step in solver(denoise, noise, flow_sigmas(6, 7.0)):
        assert step.x.dtype == dtype
        assert step.denoised.dtype == dtype
    assert torch.equal(noise, start(dtype)), "the caller's noise was written to"


@EVERY
@pytest.mark.parametrize("shift", [0.01, 0.3, 100.0])
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_extreme_shifts_and_step_counts_stay_finite(solver, shift, steps):
    result = solve(solver, toy, start(torch.float32), flow_sigmas(steps, shift))
    assert torch.isfinite(result).all()
    if steps == 1000:
        gap = result - exact(start(torch.float32), 1.0, 0.0)
        assert gap.abs().max() < 0.3


@EVERY
def test_runs_of_a_batch_are_independent(solver):
    sigmas = flow_sigmas(6, 3.0, dtype=torch.float64)
    both = torch.cat([start(), start() * 2 + 1])
    alone = torch.cat([solve(solver, toy, x, sigmas) for x in both.split(1)])
    torch.testing.assert_close(solve(solver, toy, both, sigmas), alone)


@EVERY
def test_two_interleaved_runs_do_not_mix(solver):
    sigmas = shift_sigma(torch.linspace(1, 0, 7, dtype=torch.float64), 3.0)
    one, two = solver(toy, start(), sigmas), solver(toy, start() * 2 + 1, sigmas)
    mixed = list(zip(one, two, strict=True))[-1]
    torch.testing.assert_close(mixed[0].x, solve(solver, toy, start(), sigmas))
    torch.testing.assert_close(mixed[1].x, solve(solver, toy, start() * 2 + 1, sigmas))


@EVERY
@pytest.mark.parametrize(
    "sigmas", [[1.0], [0.0, 1.0], [1.0, 0.5, 0.5, 0.0], [1.2, 0.0], [1.0, -0.1], [1.0, math.nan]]
)
def test_impossible_sigmas_are_refused(solver, sigmas):
    with pytest.raises(InputError, match="sigmas"):
        solve(solver, toy, start(), torch.tensor(sigmas))
