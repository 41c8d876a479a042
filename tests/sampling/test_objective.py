"""Flow-matching targets: the same conventions as inference and as diffusers."""

from typing import Any

import numpy as np
import pytest
import torch

from recurvid.sampling.denoiser import velocity_to_denoised
from recurvid.sampling.objective import flow_loss, noised, sample_sigmas, velocity
from recurvid.sampling.solvers import SOLVERS, solve


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, 3, 4, 2, 5, 6, generator=generator, dtype=torch.float64)


@pytest.mark.parity
def test_noised_equals_diffusers_scale_noise(batch):
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    data, noise = batch
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, 8)[:-1].tolist())
    picked = [1, 3, 6]
    expected = scheduler.scale_noise(data, scheduler.timesteps[picked], noise)
    actual = noised(data, noise, scheduler.sigmas[picked])
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_ends_of_the_path(batch):
    data, noise = batch
    assert torch.equal(noised(data, noise, torch.zeros(3)), data)
    assert torch.equal(noised(data, noise, torch.ones(3)), noise)


def test_velocity_leads_back_to_the_data(batch):
    data, noise = batch
    sigma = torch.tensor([0.2, 0.5, 0.99], dtype=torch.float64)
    x = noised(data, noise, sigma)
    torch.testing.assert_close(velocity_to_denoised(x, velocity(data, noise), sigma), data)


def test_a_perfect_model_samples_its_training_data(batch):
    data, noise = batch
    sigmas = torch.linspace(1, 0, 5, dtype=torch.float64)

    def denoise(x, sigma):
        return velocity_to_denoised(x, velocity(data, noise), sigma)

    torch.testing.assert_close(solve(SOLVERS["euler"], denoise, noise, sigmas), data)


def test_loss_is_one_number_a_sample(batch):
    data, noise = batch
    prediction = velocity(data, noise).clone()
    prediction[1] += 0.5
    prediction[2, :, 0] += 2.0
    loss = flow_loss(prediction, data, noise)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.25, 2.0]))


def test_loss_of_the_wrong_direction_is_four_times_the_target_power(batch):
    data, noise = batch
    target = (noise - data).float()
    expected = 4 * target.square().flatten(1).mean(1)
    torch.testing.assert_close(flow_loss(data - noise, data, noise), expected)


def test_loss_is_taken_in_float32(batch):
    data, noise = (t.bfloat16() for t in batch)
    prediction = torch.zeros_like(data)
    expected = (noise.float() - data.float()).square().flatten(1).mean(1)
    torch.testing.assert_close(flow_loss(prediction, data, noise), expected)


def test_weighted_loss_leaves_elements_out(batch):
    data, noise = batch
    prediction = velocity(data, noise).clone()
    prediction[:, :, 1] += 3.0
    weight = torch.zeros(3, 1, 2, 1, 1)
    weight[0, :, 0] = 1  # the right frame
    weight[1, :, 1] = 1  # the wrong one
    loss = flow_loss(prediction, data, noise, weight)
    torch.testing.assert_close(loss, torch.tensor([0.0, 9.0, 0.0]))


def test_loss_trains(batch):
    data, noise = batch
    prediction = torch.zeros_like(data, requires_grad=True)
    flow_loss(prediction, data, noise).sum().backward()
    per_sample = data[0].numel()
    torch.testing.assert_close(prediction.grad, -2 * (noise - data) / per_sample)


def test_logit_normal_without_shift():
    generator = torch.Generator().manual_seed(0)
    sigma = sample_sigmas(20_000, generator=generator)
    assert sigma.dtype == torch.float32
    assert ((sigma > 0) & (sigma < 1)).all()
    # quartiles of the standard normal are at +-0.6745; sigmoid(0.6745) = 0.66250
    quartiles = torch.quantile(sigma, torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quartiles, torch.tensor([0.3375, 0.5, 0.6625]), atol=0.01, rtol=0)


def test_logit_normal_with_shift_mean_and_std():
    generator = torch.Generator().manual_seed(0)
    sigma = sample_sigmas(20_000, shift=7.0, mean=-0.5, std=0.5, generator=generator)
    # median: sigmoid(-0.5) = 0.37754 -> 7 * 0.37754 / (1 + 6 * 0.37754) = 0.80937
    assert sigma.median().item() == pytest.approx(0.80937, abs=0.01)


def test_levels_are_reproducible():
    draws = [sample_sigmas(8, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*draws)
