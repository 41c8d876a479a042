"""Noise levels and shifts against the paper's numbers and diffusers."""

import math
from inspect import unwrap

import numpy as np
import pytest
import torch

from recurvid.errors import InputError
from recurvid.sampling.sigmas import dynamic_shift, flow_sigmas, shift_sigma

TOKENS_OF_A_FRAME = 1560  # 480 x 832


@pytest.mark.parametrize(
    ("frames", "shift"), [(1, 2.06), (2, 2.68), (3, 3.49), (4, 4.54), (5, 5.91), (9, 7.0)]
)
def test_dynamic_shift_of_sections_at_480p(frames, shift):
    # paper.md section 4, flow-shift formula
    assert dynamic_shift(frames * TOKENS_OF_A_FRAME) == pytest.approx(shift, abs=0.005)


def test_dynamic_shift_without_the_cap():
    assert dynamic_shift(9 * TOKENS_OF_A_FRAME, cap=math.inf) == pytest.approx(17, abs=0.5)
    assert dynamic_shift(256) == pytest.approx(math.exp(0.5))
    assert dynamic_shift(4096) == pytest.approx(math.exp(1.15))


def test_dynamic_shift_of_millions_of_tokens_is_the_cap():
    assert dynamic_shift(10**7) == 7.0


@pytest.mark.parametrize("tokens", [0, -4])
def test_no_tokens_are_refused(tokens):
    with pytest.raises(InputError, match="noisy tokens"):
        dynamic_shift(tokens)


@pytest.mark.parity
@pytest.mark.parametrize("steps", [1, 2, 25, 50])
def test_fixed_shift_equals_diffusers(steps):
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1].tolist())
    torch.testing.assert_close(flow_sigmas(steps, 7.0), scheduler.sigmas, rtol=0, atol=2e-7)


@pytest.mark.parity
@pytest.mark.parametrize("tokens", [300, 1560, 4680, 14040])
def test_dynamic_shift_equals_diffusers(tokens):
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import calculate_shift
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    mu = min(calculate_shift(tokens), math.log(7.0))
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, 26)[:-1].tolist(), mu=mu)
    ours = flow_sigmas(25, dynamic_shift(tokens))
    torch.testing.assert_close(ours, scheduler.sigmas, rtol=0, atol=2e-7)


def test_ends_are_exact_and_descend():
    for dtype in (torch.float32, torch.float64):
        sigmas = flow_sigmas(25, 6.3, dtype=dtype)
        assert sigmas.dtype == dtype
        assert sigmas.shape == (26,)
        assert sigmas[0] == 1
        assert sigmas[-1] == 0
        assert (sigmas[:-1] > sigmas[1:]).all()
    # paper.md section 10: the last sigma above 0 at 25 steps and shift 7
    assert flow_sigmas(25, 7.0)[-2] == pytest.approx(0.226, abs=5e-4)


def test_shift_one_changes_nothing():
    sigma = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(shift_sigma(sigma, 1.0), sigma, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("steps", "shift", "named"),
    [(0, 7.0, "steps"), (-3, 7.0, "steps"), (25, 0.0, "shift"), (25, math.nan, "shift"),
     (25, math.inf, "shift"), (25, -1.0, "shift")],
)  # fmt: skip
def test_impossible_runs_are_refused(steps, shift, named):
    with pytest.raises(InputError, match=named):
        flow_sigmas(steps, shift)


@pytest.mark.parametrize("shift", [1e-30, 1e-6, 1.0, 7.0, 1e6])
def test_the_ends_are_exact_whatever_the_shift(shift: float) -> None:
    sigmas = flow_sigmas(5, shift)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert bool(torch.isfinite(sigmas).all())


@pytest.mark.parametrize("steps", [2.5, "2", None, True])
def test_what_is_no_number_of_steps(steps):
    with pytest.raises(InputError, match="steps must be a whole number"):
        unwrap(flow_sigmas)(steps, 1.0)  # past the types that tests check
