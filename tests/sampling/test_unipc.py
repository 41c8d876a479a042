"""UniPC against written-out numbers and diffusers' scheduler."""

import math
from functools import partial

import pytest
import torch

from recurvid.errors import InputError
from recurvid.sampling.sigmas import flow_sigmas
from recurvid.sampling.solvers import SOLVERS, solve
from recurvid.sampling.unipc import unipc, unipc_logsnr

START = torch.tensor([[0.3, -1.1, 2.0]], dtype=torch.float64)


def toy(x, sigma):
    """Clean data of a Gaussian with mean 0.7 and standard deviation 0.5, in closed form."""
    mean, std = 0.7, 0.5
    alpha = 1 - sigma
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    return mean + gain * (x - alpha * mean)


@pytest.mark.parametrize(
    ("steps", "name", "expected"),
    [
        (4, "unipc", [0.7314306990, 0.5847541035, 0.9095379936]),
        (8, "unipc", [0.7671594831, 0.4537485618, 1.1477298876]),
        (25, "unipc", [0.8313845413, 0.2182566821, 1.5758969417]),
        (25, "unipc-bh2", [0.8313845395, 0.2182566884, 1.5758969302]),
    ],
)
def test_released_numbers(steps, name, expected):
    # paper.md section 10, all printed digits
    result = solve(SOLVERS[name], toy, START, flow_sigmas(steps, 7.0, dtype=torch.float64))
    torch.testing.assert_close(result[0], torch.tensor(expected).double(), rtol=0, atol=1e-7)
    assert [f"{v:.10f}" for v in result[0].tolist()] == [f"{v:.10f}" for v in expected]


def test_released_numbers_hold_in_float32():
    result = solve(SOLVERS["unipc"], toy, START.float(), flow_sigmas(25, 7.0))
    expected = torch.tensor([[0.8313845413, 0.2182566821, 1.5758969417]])
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 25])
@pytest.mark.parametrize("shift", [1.0, 7.0])
def test_logsnr_equals_diffusers(order, steps, shift):
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
        solver_order=order,
        solver_type="bh2",
    )
    scheduler.set_timesteps(steps)
    # Its timesteps are cut to whole numbers; the sigmas are what counts.
    sigmas = scheduler.sigmas.double()
    x = START
    for timestep, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        velocity = (x - toy(x, sigma)) / sigma
        x = scheduler.step(velocity, timestep, x, return_dict=False)[0]

    ours = solve(partial(unipc_logsnr, order=order), toy, START, sigmas)
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-6)


def test_the_two_parametrisations_differ():
    sigmas = flow_sigmas(25, 7.0, dtype=torch.float64)
    gap = solve(unipc, toy, START, sigmas) - solve(unipc_logsnr, toy, START, sigmas)
    assert 1e-3 < gap.abs().max() < 3e-2  # paper.md: about 1e-2


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 25])
def test_logsnr_is_finite_from_one_to_zero(variant, steps):
    # lambda is infinite at both ends; diffusers' bh1 gives NaN here.
    sigmas = flow_sigmas(steps, 7.0, dtype=torch.float64)
    result = solve(partial(unipc_logsnr, variant=variant), toy, START, sigmas)
    assert torch.isfinite(result).all()
    if steps == 25:
        exact = 0.7 + 0.5 * START
        euler = solve(SOLVERS["euler"], toy, START, sigmas)
        assert (result - exact).abs().max() < 0.7 * (euler - exact).abs().max()


def test_released_result_is_the_last_prediction():
    sigmas = flow_sigmas(7, 7.0, dtype=torch.float64)
    steps = list(unipc(toy, START, sigmas))
    assert torch.equal(steps[-1].x, steps[-1].denoised)
    assert steps[-1].sigma == pytest.approx(7 / 7 / (1 + 6 / 7))


def test_order_one_step_is_eulers():
    sigmas = torch.tensor([0.9, 0.4], dtype=torch.float64)
    euler = solve(SOLVERS["euler"], toy, START, sigmas)
    for solver in (unipc, unipc_logsnr):
        torch.testing.assert_close(solve(solver, toy, START, sigmas), euler)


@pytest.mark.parametrize("order", [0, 4])
def test_other_orders_are_refused(order):
    with pytest.raises(InputError, match="orders 1 to 3"):
        solve(partial(unipc, order=order), toy, START, flow_sigmas(4, 1.0))


def test_first_corrector_by_hand():
    # Two steps of the order-1 corrector in lambda = -log sigma, bh1, worked on paper:
    # h = log(0.9 / 0.6); x <- x0 + (0.6 / 0.9)(x - x0) + h / 2 (x0' - x0)
    sigmas = torch.tensor([0.9, 0.6, 0.3], dtype=torch.float64)
    first = toy(START, sigmas[0])
    ahead = first + 0.6 / 0.9 * (START - first)
    second = toy(ahead, sigmas[1])
    corrected = ahead + math.log(0.9 / 0.6) / 2 * (second - first)
    expected = second + 0.3 / 0.6 * (corrected - second)
    actual = solve(partial(unipc, order=1), toy, START, sigmas)
    torch.testing.assert_close(actual, expected)
